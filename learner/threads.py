"""The CPU cores that this process may use."""

import math
import os
from pathlib import Path

CGROUP_2 = Path("/sys/fs/cgroup/cpu.max")  # quota and period, in microseconds
CGROUP_1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def usable_cores() -> int:
    """The cores of the machine that affinity (taskset, Slurm) and the container's CPU quota leave, at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def _quota() -> float | None:
    """Cores' worth of time that the container grants; None where it sets no limit, or nobody says."""
    try:
        if CGROUP_2.is_file():
            limit, period = CGROUP_2.read_text().split()
        else:
            limit, period = (path.read_text() for path in CGROUP_1)
        return None if limit == "max" or int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None
