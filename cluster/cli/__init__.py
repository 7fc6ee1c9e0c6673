"""The commands of ``caravan``. Whatever is heavy is imported by the command that needs it, when it runs."""
