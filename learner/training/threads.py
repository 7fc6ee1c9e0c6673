"""Number of torch threads for supervised training."""

from cluster.cores import usable_cores
from learner.settings import LearnerSettings

MIN_PARAMETERS = 20_000_000
"""Smallest model that is trained with several threads. For smaller models one thread is faster (docs/learner.md)."""


def num_threads(settings: LearnerSettings, num_parameters: int) -> int:
    """Return the configured number of threads, else one per usable core, or 1 for a small model."""
    if "num_threads" in settings.model_fields_set:
        return settings.num_threads
    return usable_cores() if num_parameters >= MIN_PARAMETERS else 1
