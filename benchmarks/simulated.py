"""Simulated samplers, graders and learner: each only waits, on the event loop's clock, for as long as a real one works.

They implement the interfaces of ``cluster.protocols``, so that the real driver can run them; the real dispatcher of
``cluster.actors`` dispatches the work. A sampler is an engine with continuous batching: all running completions get a token in
each step, and a step takes longer with more completions.
"""

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any

from benchmarks.service_times import ServiceTimes
from cluster.actors.dispatcher import Dispatcher, Worker
from cluster.types import (
    Completion,
    FinishReason,
    Grade,
    Group,
    GroupRequest,
    PolicyVersion,
    Problem,
    StepReport,
    Usage,
    WeightSync,
)
from grader.fake import grade_of

QUEUED_AHEAD = 1.25
"""Maximum number of completions sent to an engine, as a multiple of those that it samples at a time; as in rollout.pool."""


def now() -> float:
    """Return the simulated time in seconds."""
    return asyncio.get_running_loop().time()


@dataclass(slots=True, order=True)
class _Work:
    """One completion in an engine; it ends when the engine's token counter reaches ``end``."""

    end: float
    number: int
    done: asyncio.Future[None] = field(compare=False)


class Engine:
    """Continuous batching: ``max_running`` completions share the engine; others wait in order of arrival."""

    def __init__(self, times: ServiceTimes) -> None:
        self._times = times
        self._seconds_per_token = [0.0, *(times.seconds_per_token(n) for n in range(1, times.max_running + 1))]
        self._running: list[_Work] = []  # a heap, ordered by end
        self._waiting: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._numbers = itertools.count()
        self._tokens = 0.0  # token counter: tokens that each running completion has got since the start of the engine
        self._last_change = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.busy_seconds = 0.0  # time with running completions
        self.output_seconds = 0.0  # time that a full engine needs for the same tokens

    async def sample(self, num_tokens: float) -> None:
        """Wait until the tokens are sampled."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((num_tokens, done))
        self._advance()
        self._set_timer()
        try:
            await done
        except asyncio.CancelledError:
            self._advance()
            self._running = [work for work in self._running if work.done is not done]
            heapq.heapify(self._running)
            self._waiting = deque(pair for pair in self._waiting if pair[1] is not done)
            self._admit()
            self._set_timer()
            raise

    def advance(self) -> None:
        """Update the counters to the present."""
        self._advance()
        self._set_timer()

    def _advance(self) -> None:
        """Account for the time since the last change, end finished completions and admit waiting ones."""
        elapsed, self._last_change = now() - self._last_change, now()
        num_running = len(self._running)
        if num_running:
            tokens = elapsed / self._seconds_per_token[num_running]
            self._tokens += tokens
            self.busy_seconds += elapsed
            full = self._times.max_running
            self.output_seconds += tokens * num_running * self._seconds_per_token[full] / full
        while self._running and self._running[0].end <= self._tokens + 1e-6:
            work = heapq.heappop(self._running)
            if not work.done.done():
                work.done.set_result(None)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self._times.max_running:
            num_tokens, done = self._waiting.popleft()
            heapq.heappush(self._running, _Work(self._tokens + num_tokens, next(self._numbers), done))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running:
            tokens = max(0.0, self._running[0].end - self._tokens)
            seconds = tokens * self._seconds_per_token[len(self._running)]
            self._timer = asyncio.get_running_loop().call_later(seconds, self.advance)


@dataclass(slots=True, eq=False)
class _Sampler(Worker):
    """A sampler with its engine."""

    engine: Engine = field(kw_only=True)


class DriverTime:
    """The driver's process, which does one piece of work at a time."""

    def __init__(self, num_drivers: float) -> None:
        """Share the work evenly among ``num_drivers``."""
        self._num_drivers = num_drivers
        self.busy_seconds = 0.0
        self._free_at = 0.0

    async def spend(self, seconds: float) -> None:
        """Wait until the driver has done the work."""
        share = seconds / self._num_drivers
        self._free_at = max(now(), self._free_at) + share
        self.busy_seconds += share
        await asyncio.sleep(self._free_at - now())


class SimulatedSamplers:
    """A SamplerPool of simulated engines; completions have no text."""

    def __init__(
        self, num_samplers: int, times: ServiceTimes, driver: DriverTime, seed: int, on_publish: Callable[[], None]
    ) -> None:
        """``on_publish`` is called after each publish."""
        self._times = times
        self._driver = driver
        self._source = random.Random(f"samplers {seed}")
        self._dispatcher: Dispatcher[_Sampler] = Dispatcher(int(QUEUED_AHEAD * times.max_running))
        self._samplers = [_Sampler(f"sampler {index}", engine=Engine(times)) for index in range(num_samplers)]
        for sampler in self._samplers:
            self._dispatcher.add(sampler)
        self._version = 0
        self._on_publish = on_publish

    async def sample_group(
        self, request: GroupRequest, started: Callable[[int], None] = lambda _version: None
    ) -> AsyncGenerator[Completion]:
        """Yield completions as they end; their lengths are drawn."""
        sampler = await self._dispatcher.take(request.group_size)
        version = self._version
        started(version)
        began = now()
        ended: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

        async def sample(index: int) -> None:
            num_tokens = self._times.num_tokens(self._source)
            await sampler.engine.sample(num_tokens + self._times.prefill_tokens)
            ended.put_nowait((index, num_tokens))

        tasks = [asyncio.create_task(sample(index)) for index in range(request.group_size)]
        num_left = request.group_size
        try:
            while num_left:
                index, num_tokens = await ended.get()
                num_left -= 1
                self._dispatcher.release(sampler, 1)
                await self._driver.spend(self._times.driver_seconds_per_sampled)
                yield _completion(request, index, num_tokens, version, now() - began)
        finally:
            self._dispatcher.release(sampler, num_left)
            for task in tasks:
                task.cancel()

    async def publish(self, policy: PolicyVersion) -> Sequence[WeightSync]:
        """Wait for the publish time of the slowest sampler."""
        took = [self._source.choice(self._times.publish_seconds) for _ in self._samplers]
        await asyncio.sleep(max(took))
        self._version = policy.number
        self._on_publish()
        return [
            WeightSync(sampler=sampler.name, seconds=seconds, gap=None, tolerance=1e-3)
            for sampler, seconds in zip(self._samplers, took, strict=True)
        ]

    def busy_and_output_seconds(self) -> tuple[float, float]:
        """Return sums over samplers: busy seconds, and seconds that full engines take for the same tokens."""
        for sampler in self._samplers:
            sampler.engine.advance()
        engines = [sampler.engine for sampler in self._samplers]
        return sum(engine.busy_seconds for engine in engines), sum(engine.output_seconds for engine in engines)

    def usage(self) -> Usage:
        """Busy seconds of the engines, and the dispatcher's counts."""
        busy, _ = self.busy_and_output_seconds()
        dispatched = self._dispatcher.usage()
        return Usage(
            num_replicas=len(self._samplers),
            busy_seconds=busy,
            num_running=dispatched.num_running,
            num_waiting=dispatched.num_waiting,
        )

    async def close(self) -> None:
        """Do nothing."""


class SimulatedGraders:
    """A GraderPool of simulated graders, each of which grades one completion at a time in order of arrival."""

    def __init__(self, num_graders: int, times: ServiceTimes, driver: DriverTime, seed: int) -> None:
        self._times = times
        self._driver = driver
        self._source = random.Random(f"graders {seed}")
        self._num_graders = num_graders
        self._free = asyncio.Semaphore(num_graders)
        self._num_unfinished = 0
        self._running: dict[object, float] = {}  # job -> start
        self._busy_seconds = 0.0
        self.num_graded = 0

    async def grade(self, problem: Problem, completion: Completion) -> Grade:  # noqa: ARG002
        """Wait for the grading time of a randomly drawn kind."""
        kind = self._times.kind(self._source)
        seconds = self._times.grading_seconds(kind, self._source)
        self._num_unfinished += 1
        try:
            async with self._free:
                job = object()
                self._running[job] = now()
                try:
                    await asyncio.sleep(seconds)
                finally:
                    self._busy_seconds += now() - self._running.pop(job)
        finally:
            self._num_unfinished -= 1
        await self._driver.spend(self._times.driver_seconds_per_graded)
        self.num_graded += 1
        return _grade(kind.reward)

    def usage(self) -> Usage:
        """Return exact usage."""
        running_seconds = sum(now() - since for since in self._running.values())
        return Usage(
            num_replicas=self._num_graders,
            busy_seconds=self._busy_seconds + running_seconds,
            num_running=len(self._running),
            num_waiting=self._num_unfinished - len(self._running),
        )

    async def close(self) -> None:
        """Do nothing."""


class SimulatedLearner:
    """A simulated Learner; ``num_learners`` share each step evenly, as ideal data parallelism."""

    def __init__(self, times: ServiceTimes, num_learners: float) -> None:
        self._seconds_per_token = times.learner_seconds_per_token / num_learners
        self._step = 0
        self._busy_seconds = 0.0
        self._busy_since: float | None = None
        self.staleness: list[int] = []  # of each completion that was trained

    @property
    def busy_seconds(self) -> float:
        """Return seconds of all steps so far, the running one included."""
        return self._busy_seconds + (0.0 if self._busy_since is None else now() - self._busy_since)

    async def start(self) -> PolicyVersion | None:
        """Start without a checkpoint."""
        return None

    async def step(
        self, groups: Sequence[Group], active_overrides: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[PolicyVersion, StepReport]:
        """Wait for the step time of the tokens."""
        del active_overrides
        completions = [completion for group in groups for completion in group.completions]
        self.staleness += [self._step - completion.policy_version for completion in completions]
        seconds = sum(len(completion.token_ids) for completion in completions) * self._seconds_per_token
        self._busy_since = now()
        await asyncio.sleep(seconds)
        self._busy_seconds, self._busy_since = self.busy_seconds, None
        self._step += 1
        advantages = {completion.id: 0.0 for completion in completions}
        return PolicyVersion(number=self._step, adapter={}), StepReport(
            step=self._step, metrics={}, advantages=advantages
        )

    async def save_checkpoint(self) -> str:
        """Do nothing; there are no checkpoints."""
        return ""

    async def close(self) -> None:
        """Do nothing."""


def _completion(request: GroupRequest, index: int, num_tokens: int, version: int, seconds: float) -> Completion:
    token_ids, logprobs = _tokens(num_tokens)
    return Completion(
        id=f"{request.group_id}-c{index}",
        group_id=request.group_id,
        problem_id=request.prompt.problem_id,
        index=index,
        prompt_ids=request.prompt.token_ids,
        token_ids=token_ids,
        sampler_logprobs=logprobs,
        text="",
        finish_reason=FinishReason.STOP,
        policy_version=version,
        seconds=seconds,
    )


@cache
def _tokens(number: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return tuple(range(number)), (-1.0,) * number


_grade = cache(grade_of)
