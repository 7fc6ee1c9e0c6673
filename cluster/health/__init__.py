"""The health of a run, judged by the thresholds of the two training analyses that Caravan answers."""
