"""The dashboard: the report of a run as a page that updates itself, and a browser of the run's completions."""
