"""How many samplers there should be: up where groups wait for one, down where samplers idle. Pure, in seconds of whoever asks."""

import math
from collections import deque
from dataclasses import dataclass

from cluster.types import Bounds, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When the number changes.

    An engine takes minutes to start and a GPU to keep, so both directions are slow. That groups wait is no reason by itself:
    more samplers are of no use where they then idle until the learner is done. The two directions are apart: samplers that had
    work for ``busy_share`` have it for more than ``idle_share`` when there are twice as many, and fewer come to ``target_share``.
    """

    wait_seconds: float = 10.0  # a group that waited so long for a place wants more samplers ...
    settle_seconds: float = 120.0  # ... with the present number of them for so long
    busy_share: float = 0.5  # ... in which they had work for more than this share
    window_seconds: float = 600.0  # that has to be idle, all of it with the present number
    idle_share: float = 0.2  # busy share below which there are too many
    target_share: float = 0.4  # busy share that fewer should come to


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is known of the samplers at a moment."""

    num_samplers: int  # that are given work
    num_wanted: int  # more than are given work while some are being started, or have no place
    wait_seconds: float  # of the group that waits longest; 0 where none does
    recent_share: float | None  # busy share over settle_seconds, 0 to 1; None: the number changed since
    window_share: float | None  # over window_seconds


def decide(load: Load, bounds: Bounds, pace: Pace) -> tuple[int, str]:
    """How many samplers there should be, and why in a few words."""
    number, why = load.num_wanted, ""
    has_all = load.num_samplers >= load.num_wanted  # who still waits for the last ones should not ask for more
    if load.wait_seconds >= pace.wait_seconds:
        if has_all and load.recent_share is not None and load.recent_share > pace.busy_share:
            number = load.num_samplers + math.ceil(load.num_samplers / 4)
            why = f"a group has waited {load.wait_seconds:.0f} s for a place"
    elif load.window_share is not None and load.window_share < pace.idle_share:
        enough = math.ceil(load.num_samplers * load.window_share / pace.target_share)
        number = min(load.num_wanted, max(enough, math.ceil(load.num_samplers / 2)))
        why = f"they had work in {load.window_share:.0%} of the last {pace.window_seconds:g} s"
    return bounds.clamp(number), why


class Window:
    """What the samplers did lately, with one and the same number of them."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._usages: deque[tuple[float, Usage]] = deque()  # with their moments

    def add(self, now: float, usage: Usage) -> None:
        """Take in how the samplers are doing; another number of them begins a new window."""
        if self._usages and self._usages[-1][1].num_replicas != usage.num_replicas:
            self._usages.clear()
        self._usages.append((now, usage))
        while len(self._usages) > 1 and self._usages[1][0] <= now - self._pace.window_seconds:
            self._usages.popleft()

    def load(self, num_wanted: int, wait_seconds: float) -> Load:
        """The newest usage with what came before it; there has to be one."""
        return Load(
            num_samplers=self._usages[-1][1].num_replicas,
            num_wanted=num_wanted,
            wait_seconds=wait_seconds,
            recent_share=self._busy_share(self._pace.settle_seconds),
            window_share=self._busy_share(self._pace.window_seconds),
        )

    def _busy_share(self, seconds: float) -> float | None:
        """Over the last seconds; None where the window is not as long."""
        end, last = self._usages[-1]
        earlier = [usage for moment, usage in self._usages if moment <= end - seconds]
        if not earlier:
            return None
        capacity = (last.capacity_seconds or 0.0) - (earlier[-1].capacity_seconds or 0.0)
        return (last.busy_seconds - earlier[-1].busy_seconds) / capacity if capacity > 0 else None
