"""How many groups may be under way, and which of the closed ones are trained.

Staleness is arithmetic on slots. A group takes a slot before its first token is sampled and gives it back only when the policy
that learned from it is loaded on the samplers (or when the group is dropped). With ``(max_staleness + 1) * groups_per_step``
slots, no group can start that would be trained more than ``max_staleness`` versions later, unless others overtake it; those
that were overtaken are dropped here as stale.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from cluster.types import Fate, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A closed group that will not be trained, and why."""

    group: Group
    fate: Fate
    reason: str  # "no_signal", "stale" or "ungradable"


class Slots:
    """Counts groups from their start until their policy is loaded; ``acquire`` waits, ``release`` gives back."""

    def __init__(self, *, groups_per_step: int, max_staleness: int, num_groups: int) -> None:
        """``num_groups``: how many groups the rest of the run will train; no group is started beyond them."""
        self.capacity = (max_staleness + 1) * groups_per_step
        self._remaining = num_groups
        self._held = 0
        self._changed = asyncio.Condition()

    @property
    def held(self) -> int:
        """Groups being sampled, graded, buffered or trained."""
        return self._held

    async def acquire(self) -> None:
        """Wait until one more group may start."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._held < min(self.capacity, self._remaining))
            self._held += 1

    async def release(self, *, trained: int = 0, dropped: int = 0) -> None:
        """Give back the slots of groups whose policy is loaded, or that were dropped and need a replacement."""
        async with self._changed:
            self._held -= trained + dropped
            self._remaining -= trained
            self._changed.notify_all()


class Buffer:
    """Closed groups on their way to the learner, oldest policy first."""

    def __init__(self, *, groups_per_step: int, max_staleness: int, drop_without_signal: bool) -> None:
        self._groups_per_step = groups_per_step
        self._max_staleness = max_staleness
        self._drop_without_signal = drop_without_signal
        # A policy that earns the same reward everywhere would be sampled from for ever: once this many groups were dropped
        # for one step, groups without signal are kept again.
        self._max_dropped_per_step = 8 * groups_per_step
        self._dropped_without_signal = 0
        self._ready: deque[Group] = deque()
        self._closed = asyncio.Event()

    @property
    def gave_up_filtering(self) -> bool:
        """Whether so many groups were dropped for the current step that groups without signal are kept again."""
        return self._dropped_without_signal >= self._max_dropped_per_step

    def add(self, group: Group, learner_version: int) -> Dropped | None:
        """Take a closed group, or say why not."""
        if self._is_stale(group, learner_version):
            return Dropped(group=group, fate=Fate.STALE, reason="stale")
        if len(group.rewards) < 2:
            return Dropped(group=group, fate=Fate.FAILED, reason="ungradable")
        if self._drop_without_signal and not group.has_signal and not self.gave_up_filtering:
            self._dropped_without_signal += 1
            return Dropped(group=group, fate=Fate.FILTERED, reason="no_signal")
        self._ready.append(group)
        self._closed.set()
        return None

    def drop_stale(self, learner_version: int) -> list[Dropped]:
        """Remove the groups that have become too old for a learner at this version."""
        stale = [group for group in self._ready if self._is_stale(group, learner_version)]
        self._ready = deque(group for group in self._ready if not self._is_stale(group, learner_version))
        return [Dropped(group=group, fate=Fate.STALE, reason="stale") for group in stale]

    def _is_stale(self, group: Group, learner_version: int) -> bool:
        return learner_version - group.policy_version > self._max_staleness

    async def take(self) -> tuple[Group, ...]:
        """Wait for one step's worth of groups, and take those sampled under the oldest policies."""
        while len(self._ready) < self._groups_per_step:
            self._closed.clear()
            await self._closed.wait()
        ordered = sorted(self._ready, key=lambda group: group.policy_version)  # stable: first closed, first taken
        batch = tuple(ordered[: self._groups_per_step])
        self._ready = deque(ordered[self._groups_per_step :])
        self._dropped_without_signal = 0
        return batch
