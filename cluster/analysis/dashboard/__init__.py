"""The dashboard: the report of a run that keeps up with it, and a browser of its completions."""
