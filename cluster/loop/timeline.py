"""Time accounting of a run: busy seconds of each part, and waiting seconds by the part that was waited for.

The driver reports every change of state, so every second is counted once. A part without work waits for the part before it in
the loop::

    samplers have nothing to sample    while the learner learns, a policy is published, or the graders still grade
    graders have nothing to grade      while completions are sampled
    the learner has nothing to learn   while a policy is published or evaluated, completions are sampled, or only graded
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
    """Stopwatch of samplers, graders, learner and publish; the RolloutObserver of training groups. ``clock`` in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._num_sampling = 0  # completions requested that have not arrived
        self._num_grading = 0  # completions that arrived and are not graded
        self._num_learning = 0
        self._num_publishing = 0
        self._num_evaluating = 0
        self._seconds = dict.fromkeys(SECONDS, 0.0)
        self._last_change = clock()
        self._taken_at = self._last_change
        self._usage: dict[str, Usage] = {}

    def requested(self, num_completions: int) -> None:
        """Count completions that were requested from a sampler."""
        self._advance()
        self._num_sampling += num_completions

    def sampled(self) -> None:
        """Count one completion that went to the graders."""
        self._advance()
        self._num_sampling -= 1
        self._num_grading += 1

    def graded(self) -> None:
        """Count one completion that came back from the graders."""
        self._advance()
        self._num_grading -= 1

    def cancelled(self, num_sampling: int, num_grading: int) -> None:
        """Count completions that samplers and graders no longer have to return."""
        self._advance()
        self._num_sampling -= num_sampling
        self._num_grading -= num_grading

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Count the time in the block as work of the learner."""
        self._advance()
        self._num_learning += 1
        try:
            yield
        finally:
            self._advance()
            self._num_learning -= 1

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Count the time in the block as publishing of a policy."""
        self._advance()
        self._num_publishing += 1
        try:
            yield
        finally:
            self._advance()
            self._num_publishing -= 1

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count the time in the block as evaluation: it shares the samplers, and the next policy waits for its end."""
        self._advance()
        self._num_evaluating += 1
        try:
            yield
        finally:
            self._advance()
            self._num_evaluating -= 1

    def take_metrics(self, usage: Mapping[str, Usage]) -> dict[str, float]:
        """Return busy shares (0 to 1) and seconds waited since the last call; ``usage`` by pool."""
        self._advance()
        elapsed = self._last_change - self._taken_at
        metrics = {"step_seconds": elapsed, **self._seconds}
        metrics["learner_busy_share"] = self._seconds["learner_busy_seconds"] / elapsed if elapsed else 0.0
        for pool, now in usage.items():
            before = self._usage.get(pool)
            busy = now.busy_seconds - (before.busy_seconds if before else 0.0)
            capacity = elapsed * now.num_replicas
            if now.capacity_seconds is not None:  # the number of replicas changed
                capacity = now.capacity_seconds - ((before.capacity_seconds or 0.0) if before else 0.0)
            metrics[f"{pool}_busy_share"] = min(1.0, busy / capacity) if capacity else 0.0
            metrics |= {f"{pool}_waiting": float(now.num_waiting), f"num_{pool}": float(now.num_replicas)}
            metrics[f"num_{pool}_lost"] = float(now.num_lost)
        self._usage = dict(usage)
        self._seconds = dict.fromkeys(SECONDS, 0.0)
        self._taken_at = self._last_change
        return metrics

    def _advance(self) -> None:
        now = self._clock()
        elapsed, self._last_change = now - self._last_change, now
        if self._num_learning:
            self._seconds["learner_busy_seconds"] += elapsed
        else:
            self._seconds[f"learner_waited_for_{self._part_before_learner()}_seconds"] += elapsed
        if not self._num_sampling and not self._num_evaluating:
            self._seconds[f"samplers_waited_for_{self._part_before_samplers()}_seconds"] += elapsed
        if not self._num_grading and self._num_sampling:
            self._seconds["graders_waited_for_samplers_seconds"] += elapsed

    def _part_before_learner(self) -> str:
        if self._num_evaluating:  # shares the samplers with training
            return "evaluation"
        if self._num_sampling:
            return "samplers"
        if self._num_grading:
            return "graders"
        return "publish" if self._num_publishing else "driver"

    def _part_before_samplers(self) -> str:
        if self._num_learning:
            return "learner"
        if self._num_publishing:
            return "publish"
        return "graders" if self._num_grading else "driver"
