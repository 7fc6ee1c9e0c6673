"""The commands of ``caravan``. Each command imports its heavy packages when it runs."""
