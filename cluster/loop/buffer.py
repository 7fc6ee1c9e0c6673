"""How many groups may be under way, and which of the closed ones are trained.

Staleness is arithmetic on slots. A group takes a slot before its first token is sampled, and the slot of a trained group is given
back only when the policy that learned from it is loaded on the samplers. With ``(max_staleness + 1) * groups_per_step`` slots, no
group can start that would be trained more than ``max_staleness`` versions later, unless others overtake it. Those are given up
as soon as they are doomed: when a batch is taken, whatever is left can be trained by the next step at the earliest, so that a
group too old for *that* need not be paid for any longer. Its slot is given back with the next policy too, since a group that
took it sooner would be as old. The slot of a filtered group is free at once: whoever replaces it is no older than it was (and
waits where even a group that starts now would be too old).

``oversampling`` adds slots, so that a batch need not wait for replacements of filtered groups one after the other.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable

from cluster.ledger.outcomes import Dropped
from cluster.loop.filters import GroupFilter
from cluster.types import Group, Outcome


class Slots:
    """Counts groups from their start until their policy is loaded; ``acquire`` waits, ``release`` gives back."""

    def __init__(
        self, *, groups_per_step: int, max_staleness: int, num_groups: int, version: int = 0, oversampling: float = 1.0
    ) -> None:
        """``num_groups``: how many groups the rest of the run will train; no group is started beyond them.

        ``version``: the policy that the samplers begin with.
        """
        self.capacity = (max_staleness + 1) * math.ceil(groups_per_step * oversampling)
        self.published = version  # what a group that starts now is sampled under, or newer
        self.next_version = version  # of the learner, when it takes the next batch
        self._max_staleness = max_staleness
        self._remaining = num_groups
        self._held = 0
        self._changed = asyncio.Condition()

    @property
    def held(self) -> int:
        """Groups being sampled, graded, buffered or trained, or given up since the last policy."""
        return self._held

    def is_doomed(self, policy_version: int) -> bool:
        """Whether a group of this policy is too old for the next batch."""
        return self.next_version - policy_version > self._max_staleness

    async def acquire(self) -> None:
        """Wait until one more group may start."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._held < min(self.capacity, self._remaining) and not self.is_doomed(self.published)
            )
            self._held += 1

    async def release(self, *, trained: int = 0, dropped: int = 0, published: int | None = None) -> None:
        """Give back the slots of groups whose policy is ``published`` now, or that were dropped and need a replacement."""
        async with self._changed:
            self.published = self.published if published is None else published
            self._held -= trained + dropped
            self._remaining -= trained
            self._changed.notify_all()


class Buffer:
    """Closed groups on their way to the learner, oldest policy first."""

    def __init__(self, *, groups_per_step: int, keep: GroupFilter, max_filtered_per_step: int) -> None:
        """After ``max_filtered_per_step`` filtered groups the filter is off until a batch is taken."""
        self._groups_per_step = groups_per_step
        self.keep = keep  # may be replaced at any time
        self._max_filtered_per_step = max_filtered_per_step
        self._num_filtered = 0
        self._ready: deque[Group] = deque()
        self._closed = asyncio.Event()

    @property
    def gave_up_filtering(self) -> bool:
        """Whether so many groups were filtered for the current step that all are kept: the problems have run out.

        A policy that earns the same reward everywhere would be sampled from for ever otherwise.
        """
        return self._num_filtered >= self._max_filtered_per_step

    def foregone(self, graded: Group, group_size: int) -> str | None:
        """Why a group will be filtered whatever its other completions are; None while that is open."""
        return None if self.gave_up_filtering else self.keep.foregone(graded, group_size)

    def filtered(self) -> None:
        """Count a group that was filtered before it closed."""
        self._num_filtered += 1

    def add(self, group: Group) -> Dropped | None:
        """Take a closed group, or say why not."""
        size = len(group.completions)
        if len(group.rewards) < 2:
            return Dropped(group=group, group_size=size, outcome=Outcome.FAILED, reason="ungradable")
        reason = None if self.gave_up_filtering else self.keep.reason(group)
        if reason:
            self._num_filtered += 1
            return Dropped(group=group, group_size=size, outcome=Outcome.FILTERED, reason=reason)
        self._ready.append(group)
        self._closed.set()
        return None

    def remove(self, is_doomed: Callable[[int], bool]) -> list[Group]:
        """Take out the groups whose policy version is doomed."""
        doomed = [group for group in self._ready if is_doomed(group.policy_version)]
        self._ready = deque(group for group in self._ready if not is_doomed(group.policy_version))
        return doomed

    async def take(self) -> tuple[Group, ...]:
        """Wait for one step's worth of groups, and take those of the oldest policies, in the order they were asked for.

        Of one policy, the first closed are the first taken.
        """
        while len(self._ready) < self._groups_per_step:
            self._closed.clear()
            await self._closed.wait()
        by_age = sorted(self._ready, key=lambda group: group.policy_version)  # stable
        self._ready = deque(by_age[self._groups_per_step :])
        self._num_filtered = 0
        # Who closed first is chance; a sum over the batch should not depend on it.
        return tuple(sorted(by_age[: self._groups_per_step], key=lambda group: group.id))
