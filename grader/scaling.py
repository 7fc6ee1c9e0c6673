"""How many graders there should be: up where jobs wait, down where graders idle. Pure, in seconds of whoever asks."""

import math
from collections import deque
from dataclasses import dataclass

from cluster.types import Bounds, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When the number changes.

    Growing is quick, since a group is waited for; shrinking takes a window that is longer than most steps, so that graders that
    idle while the learner works are still there for the next batch. The two are apart: after shrinking to ``target_share`` the
    graders are busier than ``idle_share``, and a window in which a job waited half of ``wait_seconds`` is not idle.
    """

    wait_seconds: float = 2.0  # a job that waited so long wants more graders
    settle_seconds: float = 10.0  # after a change, before growing again
    window_seconds: float = 300.0  # that has to be idle, all of it with the present number
    idle_share: float = 0.3  # busy share below which there are too many
    target_share: float = 0.6  # busy share that fewer should come to


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is known of the graders at a moment."""

    num_graders: int  # that work
    num_wanted: int  # more than work while some are being started, or have no place
    wait_seconds: float  # of the oldest job that waits; 0 where none does
    steady_seconds: float  # since the number that work changed
    busy_share: float | None  # over the window, 0 to 1; None until it is full
    longest_wait_seconds: float  # in the window

    def rested(self, pace: Pace) -> bool:
        """Whether no job waited for long in the window."""
        return self.longest_wait_seconds < pace.wait_seconds / 2


def decide(load: Load, bounds: Bounds, pace: Pace) -> tuple[int, str]:
    """How many graders there should be, and why in a few words."""
    number, why = load.num_wanted, ""
    has_all = load.num_graders >= load.num_wanted  # who still waits for the last ones should not ask for more
    if load.wait_seconds >= pace.wait_seconds:
        if has_all and load.steady_seconds >= pace.settle_seconds:
            number = load.num_graders + math.ceil(load.num_graders / 2)
            why = f"a completion has waited {load.wait_seconds:.1f} s"
    elif load.busy_share is not None and load.busy_share < pace.idle_share and load.rested(pace):
        enough = math.ceil(load.num_graders * load.busy_share / pace.target_share)
        number = min(load.num_wanted, max(enough, math.ceil(load.num_graders / 2)))
        why = f"they were busy {load.busy_share:.0%} of the last {pace.window_seconds:g} s"
    return bounds.clamp(number), why


@dataclass(frozen=True, slots=True)
class _Sample:
    now: float
    busy_seconds: float
    capacity_seconds: float
    wait_seconds: float


class Window:
    """What the graders did lately, with one and the same number of them."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._samples: deque[_Sample] = deque()
        self._num_members: int | None = None
        self._changed_at = 0.0

    def add(self, now: float, usage: Usage, wait_seconds: float) -> None:
        """Take in how the graders are doing; another number of them begins a new window."""
        if usage.num_replicas != self._num_members:
            self._samples.clear()
            self._num_members, self._changed_at = usage.num_replicas, now
        self._samples.append(_Sample(now, usage.busy_seconds, usage.capacity_seconds or 0.0, wait_seconds))
        while len(self._samples) > 1 and self._samples[1].now <= now - self._seconds:
            self._samples.popleft()

    def load(self, num_wanted: int) -> Load:
        """The newest sample with what came before it; there has to be one."""
        first, last = self._samples[0], self._samples[-1]
        capacity = last.capacity_seconds - first.capacity_seconds
        is_full = last.now - first.now >= self._seconds and capacity > 0
        return Load(
            num_graders=self._num_members or 0,
            num_wanted=num_wanted,
            wait_seconds=last.wait_seconds,
            steady_seconds=last.now - self._changed_at,
            busy_share=(last.busy_seconds - first.busy_seconds) / capacity if is_full else None,
            longest_wait_seconds=max(sample.wait_seconds for sample in self._samples),
        )
