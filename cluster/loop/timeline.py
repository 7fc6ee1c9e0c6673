"""Where the time of a run goes: who works, and who waits for whom.

The driver says what changes; between two changes nothing does, so that every second is put down once. A part that has nothing to
do waits for what comes before it in the loop::

    samplers have nothing to sample    while the learner learns, a policy is published, or the graders are still at it
    graders have nothing to grade      while completions are sampled
    the learner has nothing to learn   while a policy is published or measured, completions are sampled, or only graded
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from cluster.types import Usage

SECONDS = (
    "learner_busy_seconds",
    *(f"learner_waited_for_{part}_seconds" for part in ("samplers", "graders", "publish", "evaluation", "driver")),
    *(f"samplers_waited_for_{part}_seconds" for part in ("learner", "publish", "graders", "driver")),
    "graders_waited_for_samplers_seconds",
)


class Timeline:
    """The Watcher of the attempts, and the stopwatch of learner and publish. Seconds are those of ``clock``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_sampling = 0  # completions asked for that have not come
        self._num_grading = 0  # completions that came and are not graded
        self._num_learning = 0
        self._num_publishing = 0
        self._num_measuring = 0
        self._seconds = dict.fromkeys(SECONDS, 0.0)
        self._last_change = clock()
        self._cut_at = self._last_change
        self._usage: dict[str, Usage] = {}

    def asked(self, num_completions: int) -> None:
        """Completions were asked for."""
        self._advance()
        self._num_sampling += num_completions

    def sampled(self) -> None:
        """One of them went to the graders."""
        self._advance()
        self._num_sampling -= 1
        self._num_grading += 1

    def graded(self) -> None:
        """One of them came back from the graders."""
        self._advance()
        self._num_grading -= 1

    def dismissed(self, num_sampling: int, num_grading: int) -> None:
        """So many are no longer waited for."""
        self._advance()
        self._num_sampling -= num_sampling
        self._num_grading -= num_grading

    @contextmanager
    def learning(self) -> Iterator[None]:
        """While in the block, the learner has work."""
        self._advance()
        self._num_learning += 1
        try:
            yield
        finally:
            self._advance()
            self._num_learning -= 1

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """While in the block, a policy is on its way to the samplers."""
        self._advance()
        self._num_publishing += 1
        try:
            yield
        finally:
            self._advance()
            self._num_publishing -= 1

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """While in the block, the samplers have an evaluation to sample, and the next policy waits for its end."""
        self._advance()
        self._num_measuring += 1
        try:
            yield
        finally:
            self._advance()
            self._num_measuring -= 1

    def cut(self, usage: Mapping[str, Usage]) -> dict[str, float]:
        """The figures since the last cut: busy shares (0 to 1) and seconds waited; ``usage`` by pool."""
        self._advance()
        elapsed = self._last_change - self._cut_at
        figures = {"step_seconds": elapsed, **self._seconds}
        figures["learner_busy_share"] = self._seconds["learner_busy_seconds"] / elapsed if elapsed else 0.0
        for pool, now in usage.items():
            before = self._usage.get(pool)
            busy = now.busy_seconds - (before.busy_seconds if before else 0.0)
            capacity = elapsed * now.num_replicas
            if now.capacity_seconds is not None:  # members came and went
                capacity = now.capacity_seconds - ((before.capacity_seconds or 0.0) if before else 0.0)
            figures[f"{pool}_busy_share"] = min(1.0, busy / capacity) if capacity else 0.0
            figures |= {f"{pool}_waiting": float(now.num_waiting), f"num_{pool}": float(now.num_replicas)}
        self._usage = dict(usage)
        self._seconds = dict.fromkeys(SECONDS, 0.0)
        self._cut_at = self._last_change
        return figures

    def _advance(self) -> None:
        now = self._clock()
        elapsed, self._last_change = now - self._last_change, now
        if self._num_learning:
            self._seconds["learner_busy_seconds"] += elapsed
        else:
            self._seconds[f"learner_waited_for_{self._who_holds_up_the_learner()}_seconds"] += elapsed
        if not self._num_sampling and not self._num_measuring:
            self._seconds[f"samplers_waited_for_{self._who_holds_up_the_samplers()}_seconds"] += elapsed
        if not self._num_grading and self._num_sampling:
            self._seconds["graders_waited_for_samplers_seconds"] += elapsed

    def _who_holds_up_the_learner(self) -> str:
        if self._num_measuring:  # which the samplers share their time with
            return "evaluation"
        if self._num_sampling:
            return "samplers"
        if self._num_grading:
            return "graders"
        return "publish" if self._num_publishing else "driver"

    def _who_holds_up_the_samplers(self) -> str:
        if self._num_learning:
            return "learner"
        if self._num_publishing:
            return "publish"
        return "graders" if self._num_grading else "driver"
