"""Checks of the machines of a cluster before a run: facts, requirements, table."""
