"""Tools that read a finished or running run: report, dashboard, re-scoring, comparison and traces."""
