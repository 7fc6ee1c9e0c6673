"""CPU cores that this process may use, and the number of torch threads for supervised training."""

import math
import os
from pathlib import Path

from learner.settings import LearnerSettings

CGROUP_2 = Path("/sys/fs/cgroup/cpu.max")  # quota and period, in microseconds
CGROUP_1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")

MIN_PARAMETERS = 20_000_000
"""Smallest model that is trained with several threads. For smaller models one thread is faster (docs/learner.md)."""


def num_threads(settings: LearnerSettings, num_parameters: int) -> int:
    """Return the configured number of threads, else one per usable core, or 1 for a small model."""
    if "num_threads" in settings.model_fields_set:
        return settings.num_threads
    return usable_cores() if num_parameters >= MIN_PARAMETERS else 1


def usable_cores() -> int:
    """Number of cores within the process's affinity (taskset, Slurm) and the container's CPU quota, at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def _quota() -> float | None:
    """CPU quota of the container in cores; None without a limit."""
    try:
        if CGROUP_2.is_file():
            limit, period = CGROUP_2.read_text().split()
        else:
            limit, period = (path.read_text() for path in CGROUP_1)
        return None if limit == "max" or int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None
