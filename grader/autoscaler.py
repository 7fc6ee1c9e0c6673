"""Hires and lets go graders, so that there are as many as are wanted and have a place.

New actors start beside those that work and join the roster once they are ready; one that is to go is given no more work, ends
what it has, and is ended. Where the cluster has no room, the run goes on with those that there are, and Ray's autoscaler is asked
for machines until everybody has a place or is no longer wanted.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable

import ray
from ray.exceptions import RayError

from cluster.actors.calls import answer
from cluster.actors.scaling import LoadWindow, ScalingPolicy, desired_replicas
from cluster.errors import CaravanError, UngradableError
from cluster.protocols import Reservation
from cluster.types import Bounds
from grader.actor import GraderActor, GraderLost
from grader.dispatcher import Member, Roster
from grader.environment import without_secrets
from grader.settings import MAX_GRADERS, GraderSettings

START_SECONDS = 300.0
"""For placing an actor on a busy cluster and building the OCaml programs on a node that has never graded."""

BACK_OFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Wait before the next start, by how many failed in a row; the last one is for all further ones."""

CLOSE_SECONDS = 10.0
TICK_SECONDS = 1.0


class Staffing:
    """Keeps a roster at the number of graders that is wanted. Lives in one event loop, after ``ray.init``."""

    def __init__(
        self,
        settings: GraderSettings,
        roster: Roster,
        *,
        reservation: Reservation | None,
        tell: Callable[[str], None],
        scaling: ScalingPolicy,
        special_tokens: tuple[str, ...] = (),
    ) -> None:
        """``reservation``: None for a pool that has the cluster alone; ``tell`` takes a line."""
        self._settings = settings
        self._special_tokens = special_tokens
        self._roster = roster
        self._reservation = reservation
        self._tell = tell
        self._scaling = scaling
        self._actor_class = ray.remote(
            num_cpus=settings.cpus_per_grader, max_restarts=0, runtime_env=without_secrets(os.environ)
        )(GraderActor)
        self._bounds = Bounds(minimum=settings.minimum, maximum=settings.maximum)
        self._wanted = settings.num_graders
        self._window = LoadWindow(scaling)
        self._starting: list[asyncio.Task[str]] = []
        self._leaving: set[asyncio.Task[None]] = set()
        self._num_failed_starts = 0  # in a row
        self._trouble = "there was no room"
        self._start_again_at = 0.0  # monotonic seconds
        self._alone_since: float | None = None  # since when there is no grader at all
        self._wake = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Start as many as the floor asks for, and have the others follow; returns one line about the walls.

        Raises ToolchainError, SandboxError, UngradableError where one dies, or DeadlineExceeded where Ray cannot place one in
        time.
        """
        self._starting = [asyncio.create_task(self._start_one()) for _ in range(self._bounds.minimum)]
        lines = await asyncio.gather(*self._starting)
        self._starting.clear()
        self._keeping = asyncio.create_task(self._keep())
        self._keeping.add_done_callback(self._check_ended)
        return lines[0]

    async def scale(self, number: int | None, minimum: int | None, maximum: int | None) -> str:
        """Have another number of graders, or let it change between other bounds; returns one line about what follows.

        A number alone holds until the next call; with a bound, the pool scales on from there. Raises ConfigError where what is
        asked for contradicts itself or the bounds that hold.
        """
        bounds = self._bounds.changed("graders", number, minimum, maximum)
        before, self._bounds = self._wanted, bounds
        self._wanted = bounds.clamp(before if number is None else number)
        self._wake.set()
        line = f"scaling {before} -> {self._wanted} graders"
        if bounds.minimum < bounds.maximum:
            line += f", from now on between {bounds.minimum} and {bounds.maximum}"
        try:
            possible = self._num_present() + await self._left()
        except RayError:  # the keeper says so
            possible = self._wanted
        if self._wanted > possible:
            line += f"; the cluster has room for {possible} now, the others start when machines join"
        self._tell(line)
        return line

    def dismiss(self, member: Member) -> bool:
        """End a member that died or hangs, and have another one take its place; False where it got no work any more."""
        got_work = self._roster.remove(member)
        if got_work:
            ray.kill(member.handle)
            self._wake.set()
        return got_work

    async def close(self) -> None:
        """End every actor and its processes, and take back what was asked of the autoscaler."""
        tasks = [*self._starting, *self._leaving, *([self._keeping] if self._keeping else [])]
        for task in tasks:
            task.cancel()
        members = self._roster.close(UngradableError("the grader pool is closed"))
        await asyncio.gather(*tasks, *(_end(member) for member in members), return_exceptions=True)
        await self._want(0, lacking=0)

    async def _keep(self) -> None:
        while True:
            self._wake.clear()
            try:
                self._decide()
                self._let_go()
                await self._hire()
            except RayError as error:  # Ray's books cannot be read just now; the graders work on
                self._tell(f"the number of graders cannot be changed just now: {error}")
                await asyncio.sleep(BACK_OFF_SECONDS[-1])
            self._give_up_alone()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):  # Python 3.11's wait_for may forget a cancellation
                    await self._wake.wait()

    def _check_ended(self, keeping: "asyncio.Task[None]") -> None:
        """Without its keeper the pool could shrink to nothing, with every job waiting for ever."""
        if not keeping.cancelled() and (error := keeping.exception()):
            self._roster.refuse(UngradableError(f"the grader pool broke down: {error!r}"))

    def _decide(self) -> None:
        self._window.add(time.monotonic(), self._roster.usage(), self._roster.oldest_wait_seconds())
        wanted, why = desired_replicas(self._window.load(self._wanted), self._bounds, self._scaling)
        if wanted != self._wanted:
            self._tell(f"scaling {self._wanted} -> {wanted} graders: {why}")
        self._wanted = wanted

    def _let_go(self) -> None:
        """Those first that have not started yet, then those with the least to do; of these the newest, to empty new machines."""
        surplus = len(self._roster.members) + len(self._starting) - self._wanted
        while surplus > 0 and self._starting:
            self._starting.pop().cancel()
            surplus -= 1
        for member in sorted(self._roster.members, key=lambda one: (one.load, -one.joined_at))[: max(0, surplus)]:
            task = asyncio.create_task(self._retire(member))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _hire(self) -> None:
        missing = self._wanted - len(self._roster.members) - len(self._starting)
        if missing <= 0 and not self._starting:
            await self._want(self._wanted, lacking=0)
        elif missing > 0 and time.monotonic() >= self._start_again_at:
            left = await self._left()
            for _ in range(min(missing, left)):
                task = asyncio.create_task(self._start_one())
                self._starting.append(task)
                task.add_done_callback(self._check_started)
            await self._want(self._wanted, lacking=max(0, missing - left))

    async def _left(self) -> int:
        """How many more graders have room now."""
        if self._reservation is None:
            return MAX_GRADERS
        return await asyncio.to_thread(self._reservation.num_additional, self._num_present())

    async def _want(self, number: int, *, lacking: int) -> None:
        if self._reservation is not None:
            least = min(number, self._bounds.minimum)
            await asyncio.to_thread(self._reservation.request, number, minimum=least, num_unplaced=lacking)

    def _num_present(self) -> int:
        return len(self._roster.members) + len(self._roster.leaving) + len(self._starting)

    async def _start_one(self) -> str:
        handle = self._actor_class.remote(self._settings, self._special_tokens)
        line: str | None = None
        try:
            line = await answer(
                handle.start.remote(), "starting a grader", died=GraderLost, deadline_seconds=START_SECONDS
            )
        finally:
            if line is None:
                ray.kill(handle)
        self._roster.add(handle)
        return line

    def _check_started(self, start: "asyncio.Task[str]") -> None:
        """One more grader that cannot be started is no error while others work: it is tried again, later and later."""
        self._wake.set()
        if start in self._starting:
            self._starting.remove(start)
        if start.cancelled():
            return
        error = start.exception()
        if error is None:
            self._num_failed_starts = 0
            return
        self._trouble = str(error)
        self._start_again_at = (
            time.monotonic() + BACK_OFF_SECONDS[min(self._num_failed_starts, len(BACK_OFF_SECONDS) - 1)]
        )
        self._num_failed_starts += 1
        if self._num_failed_starts == 1:
            self._tell(f"a grader cannot be started, and is tried again: {self._trouble}")

    async def _retire(self, member: Member) -> None:
        await self._roster.retire(member)
        await _end(member)

    def _give_up_alone(self) -> None:
        """Let jobs fail where no grader has been there for as long as one may take to start."""
        now = time.monotonic()
        if self._roster.members:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since >= START_SECONDS:
            self._roster.fail_waiting(
                UngradableError(f"no grader has been there for {START_SECONDS:g} s; the last trouble: {self._trouble}")
            )


async def _end(member: Member) -> None:
    try:
        await answer(member.handle.close.remote(), "closing a grader", died=GraderLost, deadline_seconds=CLOSE_SECONDS)
    except (CaravanError, RayError):
        pass  # one that does not close in time, or is dead already, is killed like the others
    finally:
        ray.kill(member.handle)
