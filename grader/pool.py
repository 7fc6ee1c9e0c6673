"""The grader pool: CPU Ray actors, each with an OCaml compiler and runner of its own.

::

    pool       completions -> grades, identical ones once, another attempt where a grader failed
    roster     which grader gets which job, and who waits
    staffing   how many graders there are: starts, ends and replaces them
    scaling    how many there should be
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.actors.calls import answer
from cluster.actors.scaling import ScalingPolicy
from cluster.errors import DeadlineExceeded, UngradableError
from cluster.protocols import Reservation
from cluster.types import Completion, Grade, Problem, Usage
from grader.actor import GraderLost
from grader.autoscaler import Staffing
from grader.dispatcher import JOBS_PER_MEMBER, Roster
from grader.process import StartFailed
from grader.settings import GraderSettings

SCALING = ScalingPolicy(
    unit="completion",
    wait_seconds=2.0,
    settle_seconds=10.0,
    busy_share=0.0,
    growth_share=0.5,
    window_seconds=300.0,
    idle_share=0.3,
    max_wait_seconds=1.0,
    target_share=0.6,
)
"""Up quickly, since a group waits for its grades; down after a window that is longer than most steps, so that graders that idle
during a learner step are still there for the next batch."""


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
    """Grades over Ray actors, of which there are more or fewer over time; a GraderPool.

    Used from one event loop, after ``ray.init``.
    """

    def __init__(
        self,
        settings: GraderSettings,
        *,
        reservation: Reservation | None = None,
        tell: Callable[[str], None] = lambda _line: None,
        scaling: ScalingPolicy = SCALING,
        special_tokens: tuple[str, ...] = (),
    ) -> None:
        """Remember what to start.

        Args:
            settings: limits, walls, reward, and between which numbers the pool scales.
            reservation: resources next to the run's other components; None when the pool has the cluster alone.
            tell: takes a line when the number of graders changes, or cannot.
            scaling: when the number changes.
            special_tokens: of the tokenizer that completions are decoded with.
        """
        self._settings = settings
        self._roster = Roster()
        self._staffing = Staffing(
            settings, self._roster, reservation=reservation, tell=tell, scaling=scaling, special_tokens=special_tokens
        )
        self._starting: asyncio.Task[str] | None = None
        self._in_flight: dict[bytes, asyncio.Task[Grade]] = {}
        self._memory = _Memory(settings.cache_size)
        self._closed = False
        self.counts = PoolCounts()

    async def start(self) -> str:
        """Start the graders and return one line about the walls around completions; ``grade`` does it where needed.

        Waits for as many as ``settings.min_graders``. Raises ToolchainError, SandboxError, or DeadlineExceeded where Ray cannot
        place one in time.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self._staffing.start())
        return await asyncio.shield(self._starting)

    async def scale(
        self, number: int | None = None, *, min_graders: int | None = None, max_graders: int | None = None
    ) -> str:
        """Have another number of graders, or let it change between other bounds; returns one line about what follows.

        A number alone holds until the next call; with a bound, the pool scales on from there. What has begun to be graded is
        ended where it is. Raises ConfigError for contradictions.
        """
        return await self._staffing.scale(number, min_graders, max_graders)

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
            lambda actor: actor.causes_of.remote(problem), f"problem {problem.id!r}", "auditing a problem"
        )
        return causes

    async def _grade_once(self, problem: Problem, completion: Completion) -> Grade:
        grade: Grade = await self._with_retries(
            lambda actor: actor.grade.remote(
                problem, completion.text, completion.finish_reason, completion.opened_thought
            ),
            f"completion {completion.id!r}",
            "grading a completion",
        )
        self.counts.graded += 1
        return grade

    async def _with_retries(self, call: Callable[[Any], Any], subject: str, purpose: str) -> Any:
        if self._closed:
            raise UngradableError("the grader pool is closed")
        await self.start()
        asked_at = time.monotonic()
        reason = ""
        for attempt in range(self._settings.attempts):
            self.counts.retried += attempt > 0
            member = await self._roster.take(since=asked_at)
            try:
                return await answer(
                    call(member.handle),
                    f"{purpose} on a grader",
                    died=GraderLost,
                    deadline_seconds=self._job_seconds(),
                )
            except (GraderLost, StartFailed, DeadlineExceeded) as error:
                reason = str(error)
                self.counts.replaced_actors += self._staffing.dismiss(member)
            except UngradableError as error:
                reason = str(error)
            finally:
                self._roster.give_back(member)
        self.counts.ungradable += 1
        raise UngradableError(f"{subject} could not be graded by {self._settings.attempts} workers: {reason}")

    def _job_seconds(self) -> float:
        """Wall seconds within which a living actor has answered, the jobs before this one included."""
        settings = self._settings
        one = (settings.compile_cpu_seconds + settings.run_cpu_seconds) * settings.wall_multiplier + 60.0
        return JOBS_PER_MEMBER * one

    def usage(self) -> Usage:
        """What the graders did so far."""
        return self._roster.usage()

    async def close(self) -> None:
        """End every actor and its processes; may be called twice."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
        await self._staffing.close()


def _key(problem: Problem, completion: Completion) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    answer = (completion.finish_reason, completion.opened_thought, completion.text)
    parts = (problem.id, problem.prompt, problem.tests, *answer)
    for part in parts:
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.digest()
