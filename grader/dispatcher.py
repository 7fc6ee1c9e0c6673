"""Who grades now: the members of the pool, the jobs that they have, and the jobs that wait for one of them."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Any

from cluster.errors import UngradableError
from cluster.types import Usage

JOBS_PER_MEMBER = 2
"""While one is graded the next is already there."""


class Member:
    """One grader that has started."""

    def __init__(self, handle: Any, joined_at: float) -> None:
        """``joined_at`` in seconds of the roster's clock."""
        self.handle = handle
        self.joined_at = joined_at
        self.load = 0  # jobs it has been given that have not come back
        self.busy_since: float | None = None  # None while it has nothing to do
        self.idle = asyncio.Event()
        self.idle.set()


class Roster:
    """Gives each job to the least loaded member, the job that has waited longest first. Lives in one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.members: list[Member] = []  # that get work
        self.leaving: list[Member] = []  # that end what they have
        self._order = itertools.count()
        # A heap: who comes first, number, whom they get, since when they wait.
        self._waiting: list[tuple[float, int, asyncio.Future[Member], float]] = []
        self._refusal: UngradableError | None = None
        self._busy_seconds = 0.0  # of members that are idle now or gone
        self._capacity_seconds = 0.0  # of members that are gone

    def add(self, handle: Any) -> Member:
        """A grader has started, and gets work from now on."""
        member = Member(handle, self._clock())
        self.members.append(member)
        self._hand_out()
        return member

    async def take(self, since: float) -> Member:
        """A member for one job, to be given back; of those that wait, the one of the earliest ``since`` comes first.

        Raises UngradableError where there is nobody to wait for.
        """
        if self._refusal:
            raise self._refusal
        future: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (since, next(self._order), future, self._clock()))
        self._hand_out()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back(future.result())
            raise

    def give_back(self, member: Member) -> None:
        """A job of a member has ended, however it did."""
        member.load -= 1
        if not member.load:
            self._stop_being_busy(member)
        self._hand_out()

    def remove(self, member: Member) -> bool:
        """A member is dead; whether it was one that got work (several jobs may see the same death)."""
        for some in (self.members, self.leaving):
            if member in some:
                some.remove(member)
                self._leave(member)
                return some is self.members
        return False

    async def retire(self, member: Member) -> None:
        """Give a member no more work; returns when it has ended what it had."""
        self.members.remove(member)
        self.leaving.append(member)
        await member.idle.wait()
        self.remove(member)

    def fail_waiting(self, error: UngradableError) -> None:
        """No member is to be had for the jobs that wait now."""
        waiting, self._waiting = self._waiting, []
        for _, _, future, _ in waiting:
            if not future.done():
                future.set_exception(error)

    def refuse(self, error: UngradableError) -> None:
        """No job is given to anybody from now on."""
        self._refusal = self._refusal or error
        self.fail_waiting(self._refusal)

    def close(self, error: UngradableError) -> list[Member]:
        """Refuse all jobs; returns the members that were left."""
        self.refuse(error)
        left = [*self.members, *self.leaving]
        for member in left:
            self.remove(member)
        return left

    def oldest_wait_seconds(self) -> float:
        """How long the job has waited that waits longest; 0 where none does."""
        return max((self._clock() - began for _, _, future, began in self._waiting if not future.done()), default=0.0)

    def usage(self) -> Usage:
        """What the members did so far."""
        now, present = self._clock(), [*self.members, *self.leaving]
        under_way = sum(now - member.busy_since for member in present if member.busy_since is not None)
        return Usage(
            num_replicas=len(self.members),
            busy_seconds=self._busy_seconds + under_way,
            capacity_seconds=self._capacity_seconds + sum(now - member.joined_at for member in present),
            num_running=sum(member.load for member in present),
            num_waiting=sum(not future.done() for _, _, future, _ in self._waiting),
        )

    def _hand_out(self) -> None:
        while self._waiting and self.members:
            if self._waiting[0][2].done():  # nobody waits for it any more
                heapq.heappop(self._waiting)
                continue
            member = min(self.members, key=lambda one: one.load)
            if member.load >= JOBS_PER_MEMBER:
                return
            _, _, future, _ = heapq.heappop(self._waiting)
            member.load += 1
            member.idle.clear()
            if member.busy_since is None:
                member.busy_since = self._clock()
            future.set_result(member)

    def _stop_being_busy(self, member: Member) -> None:
        if member.busy_since is not None:
            self._busy_seconds += self._clock() - member.busy_since
            member.busy_since = None
        member.idle.set()

    def _leave(self, member: Member) -> None:
        self._stop_being_busy(member)
        self._capacity_seconds += self._clock() - member.joined_at
