"""Comparison of grading methods, in alternating turns on the same completions, so that noise affects all equally."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.harness import rotated
from benchmarks.meter import Slice, measured, persistent_servers, server_cpu_seconds
from benchmarks.mix import Job

Grade = Callable[[Job], None]  # raises if the outcome is not the completion's kind


@dataclass(slots=True)
class Measurements:
    """Measurements of one grading method."""

    spent: Slice = field(default_factory=Slice)
    num_completions: int = 0
    wall_seconds: list[float] = field(default_factory=list)  # of each completion
    by_job: dict[str, list[float]] = field(default_factory=dict)  # completion -> wall seconds of each of its gradings

    @property
    def cpu_ms(self) -> float:
        """Return CPU milliseconds per completion, of this process and its descendants."""
        return 1e3 * self.spent.cpu_seconds / self.num_completions

    @property
    def per_core(self) -> float:
        """Return completions per second of a dedicated core."""
        return 1e3 / self.cpu_ms

    @property
    def wall_ms(self) -> float:
        """Return wall milliseconds per completion, graded one at a time."""
        return 1e3 * self.spent.wall_seconds / self.num_completions


def measure(
    methods: Mapping[str, Grade], rounds: Sequence[Sequence[Job]], *, slice_seconds: float, on_round: Callable[[], None]
) -> dict[str, Measurements]:
    """Grade the completions of every round with every method.

    Each round has a turn per method, in rotating order. A turn repeats the round until ``slice_seconds`` have passed, so that
    fast and slow methods are measured for the same time.
    """
    measurements = {name: Measurements() for name in methods}
    names = list(methods)
    with persistent_servers():
        # CPU time of servers is in ticks of 10 ms, so it is measured over a whole turn, in which the other methods are idle.
        for index, jobs in enumerate(rounds):
            for name in rotated(names, index):
                _turn(measurements[name], methods[name], jobs, slice_seconds)
            on_round()
    return measurements


def _turn(measurements: Measurements, grade: Grade, jobs: Sequence[Job], slice_seconds: float) -> None:
    servers, until = server_cpu_seconds(), time.monotonic() + slice_seconds
    with measured(measurements.spent):
        while True:
            for job in jobs:
                started = time.perf_counter()
                grade(job)
                seconds = time.perf_counter() - started
                measurements.wall_seconds.append(seconds)
                measurements.by_job.setdefault(job.text, []).append(seconds)
            measurements.num_completions += len(jobs)
            if time.monotonic() >= until:
                break
    measurements.spent.cpu_seconds += server_cpu_seconds() - servers
