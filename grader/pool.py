"""The grader pool: CPU Ray actors, each with its own OCaml compiler and runner.

::

    pool        completions -> grades: identical completions are graded once, failed gradings are retried
    lifecycle   states of the graders
    cluster.actors: dispatcher, autoscaler, scaling policy
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cluster.actors.autoscaler import Autoscaler
from cluster.actors.calls import packed, result_of, unpacked
from cluster.actors.dispatcher import Dispatcher
from cluster.actors.scaling import ScalingPolicy
from cluster.errors import DeadlineExceeded, UngradableError
from cluster.protocols import Reservation
from cluster.types import Bounds, Completion, Grade, Problem, Usage
from grader.actor import GradeJob
from grader.lifecycle import GraderDied, GraderLifecycle, GraderReplica
from grader.process import StartFailed
from grader.settings import GraderSettings

JOBS_PER_GRADER = 2
"""Jobs sent to a grader at a time: one is graded, the next one is queued."""

SCALING = ScalingPolicy(
    unit="completion",
    scale_up_wait_seconds=2.0,
    settle_seconds=10.0,
    busy_share=0.0,
    growth_share=0.5,
    window_seconds=300.0,
    idle_share=0.3,
    scale_down_wait_seconds=1.0,
    target_share=0.6,
)
"""Scales up quickly, since groups wait for grades. Scales down after a window longer than most steps, so that graders that idle
during a learner step are kept for the next batch."""


@dataclass(slots=True)
class PoolCounts:
    """Counts of events in the pool, for the metrics."""

    graded: int = 0
    reused: int = 0  # identical completions of one problem that were not graded again
    retried: int = 0
    replaced_actors: int = 0
    ungradable: int = 0


@dataclass(slots=True)
class _GradeCache:
    """The newest grades, by a digest of problem and completion."""

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
    """The GraderPool of real runs: graders in Ray actors. Lives in one event loop, after ``ray.init``."""

    def __init__(
        self,
        settings: GraderSettings,
        *,
        reservation: Reservation | None = None,
        log: Callable[[str], None] = lambda _line: None,
        scaling: ScalingPolicy = SCALING,
        special_tokens: tuple[str, ...] = (),
    ) -> None:
        """Start nothing yet.

        Args:
            settings: limits, sandbox and reward of the graders, and the bounds of their number.
            reservation: resources of this pool; None if no other component uses the cluster.
            log: takes a log line.
            scaling: conditions of scaling up and down.
            special_tokens: of the tokenizer of completions.
        """
        self._settings = settings
        self._dispatcher: Dispatcher[GraderReplica] = Dispatcher(JOBS_PER_GRADER)
        self._lifecycle = GraderLifecycle(settings, self._dispatcher, special_tokens)
        self._autoscaler = Autoscaler(
            self._lifecycle,
            num_wanted=settings.num_graders,
            bounds=Bounds(minimum=settings.minimum, maximum=settings.maximum),
            scaling=scaling,
            reservation=reservation,
            log=log,
        )
        self._starting: asyncio.Task[str] | None = None
        self._in_flight: dict[bytes, asyncio.Task[Grade]] = {}
        self._cache = _GradeCache(settings.cache_size)
        self._closed = False
        self.counts = PoolCounts()

    async def start(self) -> str:
        """Start the graders and return a line about their sandbox; ``grade`` calls it when needed.

        Waits for ``settings.min_graders``. Raises ToolchainError, SandboxError, or DeadlineExceeded when Ray cannot place one in
        time.
        """
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        return await asyncio.shield(self._starting)

    async def _start(self) -> str:
        try:
            await self._autoscaler.start(self._settings.minimum)
        except BaseException:
            self._lifecycle.kill_all()
            raise
        return self._lifecycle.replicas[0].sandbox

    async def scale(
        self, number: int | None = None, *, min_graders: int | None = None, max_graders: int | None = None
    ) -> str:
        """Change the number of graders or the bounds; returns a line about the consequences.

        A number without bounds stays until the next call; with a bound, the pool continues to scale. Raises ConfigError for
        contradictions.
        """
        return await self._autoscaler.scale(number, min_graders, max_graders)

    async def grade(self, problem: Problem, completion: Completion) -> Grade:
        """Grade one completion; identical texts of one problem are graded once.

        Raises UngradableError if ``settings.attempts`` graders failed or the pool is closed.
        """
        key = _key(problem, completion)
        known = self._cache.get(key)
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
        # Shielded: if one caller is cancelled, the others still get the grade.
        return await asyncio.shield(task)

    def _remember(self, key: bytes, ended: "asyncio.Task[Grade]") -> None:
        self._in_flight.pop(key, None)
        if not ended.cancelled() and ended.exception() is None:
            self._cache.put(key, ended.result())

    async def unsolvable_causes(self, problem: Problem) -> tuple[str, ...]:
        """Return the reasons why no solution can pass a problem; empty if none is known.

        Raises UngradableError if ``settings.attempts`` graders failed or the pool is closed.
        """
        causes: tuple[str, ...] = await self._with_retries(
            lambda actor: actor.unsolvable_causes.remote(problem), f"problem {problem.id!r}", "auditing a problem"
        )
        return causes

    async def _grade_once(self, problem: Problem, completion: Completion) -> Grade:
        job: GradeJob = (
            problem,
            completion.text,
            completion.finish_reason,
            completion.opened_thought,
            completion.token_ends,
        )
        argument = packed(job)
        answer: bytes = await self._with_retries(
            lambda actor: actor.grade.remote(argument), f"completion {completion.id!r}", "grading a completion"
        )
        self.counts.graded += 1
        grade: Grade = unpacked(answer)
        return grade

    async def _with_retries(self, call: Callable[[Any], Any], subject: str, purpose: str) -> Any:
        if self._closed:
            raise UngradableError("the grader pool is closed")
        await self.start()
        requested_at = asyncio.get_running_loop().time()
        reason = ""
        for attempt in range(self._settings.attempts):
            self.counts.retried += attempt > 0
            replica = await self._dispatcher.take(since=requested_at)  # a retry comes before later jobs
            actor = replica.actor
            try:
                return await result_of(
                    call(actor),
                    f"{purpose} on {replica.name}",
                    death_error=GraderDied,
                    deadline_seconds=self._job_deadline_seconds(),
                )
            except (GraderDied, StartFailed, DeadlineExceeded) as error:
                reason = str(error)
                self.counts.replaced_actors += self._lifecycle.evict(replica, actor, error)
            except UngradableError as error:
                reason = str(error)
            finally:
                self._dispatcher.release(replica)
        self.counts.ungradable += 1
        raise UngradableError(f"{subject} could not be graded by {self._settings.attempts} workers: {reason}")

    def _job_deadline_seconds(self) -> float:
        """Return the wall seconds within which a live actor answers, jobs queued before this one included."""
        settings = self._settings
        job_seconds = (settings.compile_cpu_seconds + settings.run_cpu_seconds) * settings.wall_multiplier + 60.0
        return JOBS_PER_GRADER * job_seconds

    def usage(self) -> Usage:
        """Return the work of the graders so far."""
        return self._lifecycle.usage()

    async def close(self) -> None:
        """End every actor and its processes; may be called twice."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
        self._dispatcher.fail(UngradableError("the grader pool is closed"))
        await self._autoscaler.close()
        await self._lifecycle.close()


def _key(problem: Problem, completion: Completion) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    answer = (completion.finish_reason, completion.opened_thought, completion.text)
    tokens = ",".join(map(str, completion.token_ends))  # one text can be sampled as different tokens
    parts = (problem.id, problem.prompt, problem.tests, *answer, tokens)
    for part in parts:
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.digest()
