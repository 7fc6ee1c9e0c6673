"""Health checks of a run, with the thresholds of the two training analyses (README, "Why it exists")."""
