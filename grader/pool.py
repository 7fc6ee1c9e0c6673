"""The grader pool: CPU Ray actors, each with an OCaml compiler and runner of its own."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from cluster.types import (
    CaravanError,
    Completion,
    DeadlineExceeded,
    FinishReason,
    Grade,
    Problem,
    UngradableError,
    Usage,
)
from grader.audit import causes_of
from grader.grade import Grader
from grader.settings import GraderSettings

# Two jobs per actor: while one is graded the next is already there.
_JOBS_PER_ACTOR = 2
# Placing an actor on a busy cluster and building the OCaml programs on a node that has never graded.
_START_SECONDS = 300.0
_CLOSE_SECONDS = 10.0


class GraderActor:
    """What runs in each actor's process."""

    def __init__(self, settings: GraderSettings) -> None:
        self._settings = settings
        self._grader: Grader | None = None

    def start(self) -> str:
        """Make the grader ready and return one line about its walls; raises ToolchainError or SandboxError."""
        self._grader = Grader(self._settings)
        return self._grader.walls.describe()

    def grade(self, problem: Problem, text: str, finish_reason: FinishReason) -> Grade:
        """Grade one completion; raises UngradableError."""
        return self._started().grade(problem, text, finish_reason)

    def causes_of(self, problem: Problem) -> tuple[str, ...]:
        """Why no solution can pass a problem, empty where one may; raises UngradableError."""
        return causes_of(self._started(), problem)

    def _started(self) -> Grader:
        if self._grader is None:
            self.start()
        assert self._grader is not None
        return self._grader

    def close(self) -> None:
        """End the OCaml processes."""
        if self._grader is not None:
            self._grader.close()


@dataclass(slots=True, eq=False)
class _Member:
    """One actor, and how many jobs it has been given that have not come back."""

    handle: Any
    load: int = 0
    busy_since: float | None = None  # monotonic seconds; None while it has nothing to do

    def take(self) -> None:
        """One more job."""
        self.load += 1
        if self.busy_since is None:
            self.busy_since = time.monotonic()

    def give_back(self) -> float:
        """One job less; returns the seconds that it was busy if it is idle now, else 0."""
        self.load -= 1
        if self.load or self.busy_since is None:
            return 0.0
        began, self.busy_since = self.busy_since, None
        return time.monotonic() - began


@dataclass(slots=True)
class PoolCounts:
    """What happened in the pool so far, for the metrics."""

    graded: int = 0
    reused: int = 0  # identical completions of one problem that were not graded again
    retried: int = 0
    replaced_actors: int = 0
    ungradable: int = 0


@dataclass(slots=True)
class _Memory:
    """The newest grades, by what was graded."""

    size: int
    grades: OrderedDict[bytes, Grade] = field(default_factory=OrderedDict)

    def get(self, key: bytes) -> Grade | None:
        grade = self.grades.get(key)
        if grade is not None:
            self.grades.move_to_end(key)
        return grade

    def put(self, key: bytes, grade: Grade) -> None:
        self.grades[key] = grade
        self.grades.move_to_end(key)
        while len(self.grades) > self.size:
            self.grades.popitem(last=False)


class RayGraderPool:
    """Grades over ``settings.num_graders`` actors; a GraderPool. Used from one event loop, after ``ray.init``."""

    def __init__(self, settings: GraderSettings) -> None:
        self._settings = settings
        self._actor_class = ray.remote(num_cpus=settings.cpus_per_grader, max_restarts=0)(GraderActor)
        self._members: list[_Member] = []
        self._slots = asyncio.Semaphore(settings.num_graders * _JOBS_PER_ACTOR)
        self._starting: asyncio.Task[str] | None = None
        self._in_flight: dict[bytes, asyncio.Task[Grade]] = {}
        self._memory = _Memory(settings.cache_size)
        self._closed = False
        self._busy_seconds = 0.0  # of members that are idle now or gone
        self._num_asked = 0
        self.counts = PoolCounts()

    async def start(self) -> str:
        """Start every actor and return one line about the walls around completions; ``grade`` does it where needed.

        Raises ToolchainError, SandboxError, or DeadlineExceeded where Ray cannot place an actor in time.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self._start_all())
        return await asyncio.shield(self._starting)

    async def _start_all(self) -> str:
        self._members = [self._new_member() for _ in range(self._settings.num_graders)]
        lines = await asyncio.gather(
            *(_answer(member.handle.start.remote(), _START_SECONDS, "start a grader") for member in self._members)
        )
        return str(lines[0])

    def _new_member(self) -> _Member:
        return _Member(handle=self._actor_class.remote(self._settings))

    async def grade(self, problem: Problem, completion: Completion) -> Grade:
        """Grade one completion; identical texts of one problem are graded once.

        Raises UngradableError where ``settings.attempts`` workers failed at it, or the pool is closed.
        """
        key = _key(problem, completion)
        known = self._memory.get(key)
        if known is not None:
            self.counts.reused += 1
            return known
        task = self._in_flight.get(key)
        if task is None:
            task = asyncio.create_task(self._grade_once(problem, completion))
            self._in_flight[key] = task
            task.add_done_callback(lambda ended: self._remember(key, ended))
        else:
            self.counts.reused += 1
        # Shielded: a caller that gives up does not take the grade away from the others that wait for it.
        return await asyncio.shield(task)

    def _remember(self, key: bytes, ended: "asyncio.Task[Grade]") -> None:
        self._in_flight.pop(key, None)
        if not ended.cancelled() and ended.exception() is None:
            self._memory.put(key, ended.result())

    async def causes_of(self, problem: Problem) -> tuple[str, ...]:
        """Why no solution can pass a problem, empty where one may.

        Raises UngradableError where ``settings.attempts`` workers failed at it, or the pool is closed.
        """
        causes: tuple[str, ...] = await self._with_retries(
            lambda actor: actor.causes_of.remote(problem), f"problem {problem.id!r}", "audit a problem"
        )
        return causes

    async def _grade_once(self, problem: Problem, completion: Completion) -> Grade:
        grade: Grade = await self._with_retries(
            lambda actor: actor.grade.remote(problem, completion.text, completion.finish_reason),
            f"completion {completion.id!r}",
            "grade a completion",
        )
        self.counts.graded += 1
        return grade

    async def _with_retries(self, call: Callable[[Any], Any], subject: str, purpose: str) -> Any:
        if self._closed:
            raise UngradableError("the grader pool is closed")
        await self.start()
        self._num_asked += 1
        try:
            return await self._attempts(call, subject, purpose)
        finally:
            self._num_asked -= 1

    async def _attempts(self, call: Callable[[Any], Any], subject: str, purpose: str) -> Any:
        reason = ""
        async with self._slots:
            for attempt in range(self._settings.attempts):
                self.counts.retried += attempt > 0
                try:
                    return await self._on_least_loaded(call, purpose)
                except (UngradableError, DeadlineExceeded) as error:
                    reason = str(error)
        self.counts.ungradable += 1
        raise UngradableError(f"{subject} could not be graded by {self._settings.attempts} workers: {reason}")

    async def _on_least_loaded(self, call: Callable[[Any], Any], purpose: str) -> Any:
        if self._closed:
            raise UngradableError("the grader pool is closed")
        member = min(self._members, key=lambda one: one.load)
        member.take()
        try:
            return await _answer(call(member.handle), self._job_seconds(), purpose)
        except (RayActorError, DeadlineExceeded) as error:
            self._replace(member)
            raise UngradableError(f"a grader actor died or hung: {error}") from error
        finally:
            self._busy_seconds += member.give_back()

    def _job_seconds(self) -> float:
        """Wall seconds within which a living actor has answered, the jobs before this one included."""
        settings = self._settings
        one = (settings.compile_cpu_seconds + settings.run_cpu_seconds) * settings.wall_multiplier + 60.0
        return _JOBS_PER_ACTOR * one

    def _replace(self, member: _Member) -> None:
        # Several jobs may see the same death; the first one replaces the actor.
        if member not in self._members or self._closed:
            return
        ray.kill(member.handle)
        self._members[self._members.index(member)] = self._new_member()
        self.counts.replaced_actors += 1

    def usage(self) -> Usage:
        """What the graders did so far."""
        now = time.monotonic()
        running = sum(member.load for member in self._members)
        under_way = sum(now - member.busy_since for member in self._members if member.busy_since is not None)
        return Usage(
            num_members=len(self._members),
            busy_seconds=self._busy_seconds + under_way,
            num_running=running,
            num_waiting=max(0, self._num_asked - running),
        )

    async def close(self) -> None:
        """End every actor and its processes; may be called twice."""
        self._closed = True
        members, self._members = self._members, []
        endings = (_answer(member.handle.close.remote(), _CLOSE_SECONDS, "close") for member in members)
        # An actor that does not close in time, or is dead already, is killed like the others.
        await asyncio.gather(*endings, return_exceptions=True)
        for member in members:
            ray.kill(member.handle)


async def _answer(call: Any, seconds: float, purpose: str) -> Any:
    """Await a remote call: DeadlineExceeded when late, our own errors as they were raised over there."""
    try:
        return await asyncio.wait_for(asyncio.wrap_future(call.future()), seconds)
    except TimeoutError as error:
        raise DeadlineExceeded(f"a grader actor did not {purpose} within {seconds:g} s") from error
    except RayTaskError as error:
        if isinstance(error.cause, CaravanError):
            raise error.cause from error
        raise


def _key(problem: Problem, completion: Completion) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    parts = (problem.id, problem.prompt, problem.tests, completion.finish_reason, completion.text)
    for part in parts:
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.digest()
