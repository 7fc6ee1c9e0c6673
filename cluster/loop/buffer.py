"""The in-flight limit of groups, and the buffer of complete groups between samplers and learner.

The in-flight limit bounds staleness. A group counts as in flight from before its first token until the policy trained on it is
loaded on the samplers. With at most ``(max_staleness + 1) * groups_per_step`` groups in flight, no group can start that would be
trained more than ``max_staleness`` versions later, unless other groups overtake it. Overtaken groups are cancelled early: when a
batch is taken, the remaining groups are trained by the next step at the earliest, so a group that is too old for *that* step is
stale. A stale group stays in flight until the next policy is published, because a replacement that started sooner would be as
old. A filtered group leaves at once: its replacement is no older than it was.

``oversampling`` raises the limit, so that a batch does not wait for replacements of filtered groups one after the other.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable

from cluster.ledger.outcomes import DroppedGroup
from cluster.loop.filters import GroupFilter
from cluster.types import Drop, DropReason, Group


class InFlightLimit:
    """A counter of groups in flight: ``acquire`` waits until one more may start, ``release`` removes groups."""

    def __init__(
        self, *, groups_per_step: int, max_staleness: int, num_groups: int, version: int = 0, oversampling: float = 1.0
    ) -> None:
        """``num_groups``: groups that the rest of the run trains; no group starts beyond them. ``version``: of the samplers."""
        self.limit = (max_staleness + 1) * math.ceil(groups_per_step * oversampling)
        self.published = version  # oldest policy version of a group that starts now
        self.next_version = version  # policy version of the learner when it takes the next batch
        self._max_staleness = max_staleness
        self._remaining = num_groups
        self._in_flight = 0
        self._changed = asyncio.Condition()

    @property
    def in_flight(self) -> int:
        """Groups being sampled, graded, buffered or trained, and groups cancelled as stale since the last policy."""
        return self._in_flight

    def is_stale(self, policy_version: int) -> bool:
        """True if a group of this policy version is too old for the next batch."""
        return self.next_version - policy_version > self._max_staleness

    async def acquire(self) -> None:
        """Wait until one more group may start, and count it."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._in_flight < min(self.limit, self._remaining) and not self.is_stale(self.published)
            )
            self._in_flight += 1

    async def release(self, *, trained: int = 0, dropped: int = 0, published: int | None = None) -> None:
        """Remove trained and dropped groups; ``published`` is the policy version that samplers have now, None: unchanged."""
        async with self._changed:
            self.published = self.published if published is None else published
            self._in_flight -= trained + dropped
            self._remaining -= trained
            self._changed.notify_all()


class Buffer:
    """Complete groups that wait for the learner. Batches take the oldest policy versions first."""

    def __init__(self, *, groups_per_step: int, group_filter: GroupFilter, max_filtered_per_step: int) -> None:
        """After ``max_filtered_per_step`` filtered groups the filter is suspended until the next batch is taken."""
        self._groups_per_step = groups_per_step
        self.filter = group_filter  # may be replaced at any time
        self._max_filtered_per_step = max_filtered_per_step
        self._num_filtered = 0
        self._ready: deque[Group] = deque()
        self._added = asyncio.Event()

    @property
    def is_filter_suspended(self) -> bool:
        """True after ``max_filtered_per_step`` filtered groups: all are kept.

        Without this, a policy that earns the same reward on every problem would be sampled forever.
        """
        return self._num_filtered >= self._max_filtered_per_step

    def early_stop(self, graded: Group, group_size: int) -> DropReason | None:
        """Return the reason to filter a group if its missing completions cannot change the decision; else None."""
        return None if self.is_filter_suspended else self.filter.early_reason(graded, group_size)

    def count_filtered(self) -> None:
        """Count a group that was filtered before it was complete."""
        self._num_filtered += 1

    def add(self, group: Group) -> DroppedGroup | None:
        """Add a complete group; return it as dropped if it is ungradable or filtered."""
        size = len(group.completions)
        if len(group.rewards) < 2:
            return DroppedGroup(group=group, group_size=size, drop=Drop(DropReason.UNGRADABLE))
        reason = None if self.is_filter_suspended else self.filter.reason(group)
        if reason:
            self._num_filtered += 1
            return DroppedGroup(group=group, group_size=size, drop=Drop(reason))
        self._ready.append(group)
        self._added.set()
        return None

    def remove_stale(self, is_stale: Callable[[int], bool]) -> list[Group]:
        """Remove and return the groups whose policy version is stale."""
        stale = [group for group in self._ready if is_stale(group.policy_version)]
        self._ready = deque(group for group in self._ready if not is_stale(group.policy_version))
        return stale

    async def take(self) -> tuple[Group, ...]:
        """Wait for one batch, and remove and return it: the oldest policy versions, in the order of their ids.

        Among groups of one policy version, the first complete are the first taken.
        """
        while len(self._ready) < self._groups_per_step:
            self._added.clear()
            await self._added.wait()
        by_age = sorted(self._ready, key=lambda group: group.policy_version)  # stable
        self._ready = deque(by_age[self._groups_per_step :])
        self._num_filtered = 0
        # Groups complete in random order, and sums over the batch must not depend on it.
        return tuple(sorted(by_age[: self._groups_per_step], key=lambda group: group.id))
