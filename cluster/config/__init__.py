"""The configuration: one typed tree, its schedule and its environment variables."""
