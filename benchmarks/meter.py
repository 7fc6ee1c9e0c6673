"""CPU time and memory of this process and its descendants.

The time of a fork shows up in its parent's count once it is reaped, and the forks of a long-lived server are reaped by
that server: so what is summed is our own time, that of the children which we have reaped, and, for every living
process below us, its own time and that of what it has reaped. A process that ends moves from one of these to another
and the sum never jumps, with two exceptions that ``MeterError`` reports: a server that was killed with children of its
own, and one that lets the kernel throw its children's times away by ignoring SIGCHLD.
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

    cpu_seconds: float = 0.0  # of this process and its descendants; living processes count in ticks of 10 ms
    wall_seconds: float = 0.0


def living_below() -> list[psutil.Process]:
    """Return the descendants of this process."""
    return list(psutil.Process().children(recursive=True))


def own_cpu_seconds() -> float:
    """Return CPU seconds of this process and its reaped children, exact to the microsecond."""
    own, reaped = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + reaped.ru_utime + reaped.ru_stime


def server_cpu_seconds() -> float:
    """Return CPU seconds of the living descendants and their reaped children, in ticks of 10 ms."""
    total = 0.0
    for process in living_below():
        times = process.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


@contextmanager
def measured(into: Slice) -> Iterator[None]:
    """Add the time of the body, without servers; measure those by ``server_cpu_seconds`` over many slices at once."""
    cpu, wall = own_cpu_seconds(), time.perf_counter()
    yield
    into.cpu_seconds += own_cpu_seconds() - cpu
    into.wall_seconds += time.perf_counter() - wall


@contextmanager
def lasting_servers() -> Iterator[None]:
    """Raise MeterError if a server ends within the body, or if a process ignores SIGCHLD."""
    before = {process.pid for process in psutil.Process().children()}
    yield
    if not before <= {process.pid for process in psutil.Process().children()}:
        raise MeterError("a grading process was replaced while it was measured; its CPU time is lost: run again")
    for pid in (process.pid for process in living_below()):
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


def memory_below() -> Memory:
    """Return the total memory of the descendants of this process."""
    processes = living_below()
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
