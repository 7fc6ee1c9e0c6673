"""CPU time and memory of this process and its descendants.

The kernel adds the time of a process to its parent when the parent reaps it. The total is therefore this process's own time and
that of its reaped children, plus, for every living descendant, its own time and that of its reaped children. A process that ends
moves from one part to another, and the sum does not change. ``MeterError`` reports two exceptions: a server that is killed
before it reaps its children, and a process that ignores SIGCHLD, so that the kernel discards the times of its children.
"""

import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

_MIB = 1 << 20


class MeterError(Exception):
    """The measurement would be incomplete."""


@dataclass(slots=True)
class Slice:
    """Time of a piece of work."""

    cpu_seconds: float = 0.0  # of this process and its descendants; living descendants are measured in ticks of 10 ms
    wall_seconds: float = 0.0


def living_descendants() -> list[psutil.Process]:
    """Return the descendants of this process."""
    return list(psutil.Process().children(recursive=True))


def own_cpu_seconds() -> float:
    """Return CPU seconds of this process and its reaped children, exact to the microsecond."""
    own, reaped = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + reaped.ru_utime + reaped.ru_stime


def server_cpu_seconds() -> float:
    """Return CPU seconds of the living descendants and their reaped children, in ticks of 10 ms."""
    total = 0.0
    for process in living_descendants():
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def measured(into: Slice) -> Iterator[None]:
    """Add the time of the block, without servers; ``server_cpu_seconds`` measures these, over many slices at once."""
    cpu, wall = own_cpu_seconds(), time.perf_counter()
    yield
    into.cpu_seconds += own_cpu_seconds() - cpu
    into.wall_seconds += time.perf_counter() - wall


@contextmanager
def persistent_servers() -> Iterator[None]:
    """Raise MeterError if a server ends within the block, or if a process ignores SIGCHLD."""
    before = {process.pid for process in psutil.Process().children()}
    yield
    if not before <= {process.pid for process in psutil.Process().children()}:
        raise MeterError("a grading process was replaced while it was measured; its CPU time is lost: run again")
    for pid in (process.pid for process in living_descendants()):
        if _ignores_child_signals(pid):
            raise MeterError(f"process {pid} ignores SIGCHLD, so that the CPU time of its children is lost")


def _ignores_child_signals(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False
    ignored = next((line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")), "0")
    return bool(int(ignored, 16) >> (signal.SIGCHLD - 1) & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of the descendants of this process."""

    pss_mib: float  # shared pages divided by the number of sharing processes
    rss_mib: float  # shared pages counted once per process
    num_processes: int


def memory_of_descendants() -> Memory:
    """Return the total memory of the descendants of this process."""
    processes = living_descendants()
    full = [process.memory_full_info() for process in processes]
    return Memory(
        pss_mib=sum(info.pss for info in full) / _MIB,
        rss_mib=sum(info.rss for info in full) / _MIB,
        num_processes=len(processes),
    )


def busy_seconds_of_the_machine() -> float:
    """Return busy CPU seconds of all cores of this machine since its start."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0))
