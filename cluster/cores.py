"""CPU cores that this process may use."""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Number of whole cores within the process's affinity (taskset, Slurm) and the container's CPU quota, at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota(cgroup)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _quota(cgroup: Path) -> float | None:
    """CPU quota of the container in cores; None without a limit."""
    try:
        if (cgroup / "cpu.max").is_file():  # version 2: "150000 100000", or "max 100000"
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:  # version 1; a quota of -1 is no limit
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None
