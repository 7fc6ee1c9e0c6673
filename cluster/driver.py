"""The training loop.

::

    problems ──> sample ──> grade ──> buffer ──> learn ──> publish ──┐
        ▲          each completion       │                           │
        │          is graded as it ends  └─ filtered, stale ──┐      │
        └───────────────── slots are given back <─────────────┴──────┘

    sampling  waits for a slot                unblocked by publish, or by a dropped group
    grading   waits for a completion to end   unblocked by a sampler
    learning  waits for groups_per_step       unblocked by the last grade of a group
    publish   waits for every sampler         unblocked when the adapter is loaded

Synchronous GRPO is ``max_staleness`` 0: there are only as many slots as one step needs, so sampling waits for publish. With 1 the
next batch is sampled while the learner works on this one. There is no other loop.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

from cluster.attempt import attempt
from cluster.buffer import Buffer, Dropped, Slots
from cluster.config import Config
from cluster.metrics import step_metrics
from cluster.problems import ProblemStream
from cluster.progress import Progress
from cluster.types import (
    Fate,
    GraderPool,
    Group,
    GroupRequest,
    Learner,
    PolicyVersion,
    Prompt,
    SamplerPool,
    Sampling,
)

Batch = tuple[Group, ...]


class Records(Protocol):
    """Where the loop reports what happened; the real one is cluster.records."""

    def group_dropped(self, dropped: Dropped, step: int) -> None:
        """A group ended without being trained; ``step`` is the last one done."""
        ...

    def step_done(self, step: int, epoch: float, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
        """A step is done and its policy is loaded on every sampler."""
        ...

    def filtering_gave_up(self, step: int) -> None:
        """So many groups without signal were dropped for one step that they are kept again."""
        ...

    def save_progress(self, progress: Progress) -> None:
        """Keep what resuming from the checkpoint of this step needs."""
        ...


class Driver:
    """Samples, grades, learns and publishes until the run is over."""

    def __init__(
        self,
        config: Config,
        *,
        max_steps: int,
        stream: ProblemStream,
        prompts: Mapping[str, Prompt],
        samplers: SamplerPool,
        graders: GraderPool,
        learner: Learner,
        records: Records,
        progress: Progress,
        stop: asyncio.Event,
    ) -> None:
        """``prompts`` by problem id; ``progress`` from where to go on; ``stop`` ends the run after the current step."""
        loop = config.loop
        self._group_size = config.rollout.group_size
        self._seed = config.run.seed
        self._sampling = Sampling(
            temperature=config.rollout.temperature, max_completion_tokens=config.rollout.max_completion_tokens
        )
        self._save_every_steps = loop.save_every_steps
        self._max_steps = max_steps
        self._stream = stream
        self._prompts = prompts
        self._samplers = samplers
        self._graders = graders
        self._learner = learner
        self._records = records
        self._progress = progress
        self._stop = stop
        self._learning: asyncio.Task[PolicyVersion] | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._slots = Slots(
            groups_per_step=loop.groups_per_step,
            max_staleness=loop.max_staleness,
            num_groups=(max_steps - progress.step) * loop.groups_per_step,
        )
        self._buffer = Buffer(
            groups_per_step=loop.groups_per_step,
            max_staleness=loop.max_staleness,
            drop_without_signal=loop.drop_groups_without_signal,
        )

    async def train(self) -> int:
        """Run to the last step, or until stopped; returns the last step done, which has a checkpoint."""
        async with asyncio.TaskGroup() as tasks:
            sampling = tasks.create_task(self._keep_sampling(tasks))
            published = time.monotonic()
            while self._progress.step < self._max_steps and not self._stop.is_set():
                groups = await self._unless_stopped(self._buffer.take())
                if groups is None:
                    break
                # Shielded: when another part fails meanwhile, the step is still taken and accounted for.
                self._learning = asyncio.create_task(self._learn(groups, waiting_since=published))
                policy = await asyncio.shield(self._learning)
                await self._samplers.publish(policy)
                published = time.monotonic()
                await self._slots.release(trained=len(groups))
                for dropped in self._buffer.drop_stale(policy.number):
                    await self._drop(dropped)
                if policy.number % self._save_every_steps == 0:
                    await self.save_checkpoint()
            sampling.cancel()
            for under_way in self._under_way:
                under_way.cancel()
        await self.save_checkpoint()
        return self._progress.step

    async def _keep_sampling(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._slots.acquire()
            position = self._progress.start_next()
            task = tasks.create_task(self._sample_and_grade(position))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _sample_and_grade(self, position: int) -> None:
        """One group from its problem to the buffer; each completion is graded while the others are still sampled."""
        problem = self._stream.at(position)
        request = GroupRequest(
            group_id=f"g{position:07d}",
            prompt=self._prompts[problem.id],
            group_size=self._group_size,
            sampling=self._sampling,
            seed=(self._seed << 32) + position * self._group_size,
        )
        group = await attempt(problem, request, self._samplers, self._graders)
        dropped = self._buffer.add(group, learner_version=self._progress.step)
        if dropped:
            await self._drop(dropped)

    async def _learn(self, groups: Batch, *, waiting_since: float) -> PolicyVersion:
        began = time.monotonic()
        policy, report = await self._learner.step(groups)
        timings = {"gather_seconds": began - waiting_since, "learn_seconds": time.monotonic() - began}
        self._progress.step_done([_position(group.id) for group in groups])
        epoch = self._progress.epoch(len(self._stream))
        self._records.step_done(report.step, epoch, groups, step_metrics(groups, report, timings))
        return policy

    async def _drop(self, dropped: Dropped) -> None:
        self._progress.dropped(_position(dropped.group.id))
        self._records.group_dropped(dropped, self._progress.step)
        if dropped.fate is Fate.FILTERED and self._buffer.gave_up_filtering:
            self._records.filtering_gave_up(self._progress.step)
        await self._slots.release(dropped=1)

    async def _unless_stopped(self, work: Coroutine[Any, Any, Batch]) -> Batch | None:
        """The result of the work, or None when the run is asked to stop before it is there."""
        stopping = asyncio.create_task(self._stop.wait())
        working = asyncio.create_task(work)
        try:
            await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            working.cancel()
        return working.result() if working.done() and not working.cancelled() else None

    async def save_checkpoint(self) -> None:
        """Save the last step done, unless it is saved already; a step under way is waited for."""
        if self._learning:
            await asyncio.wait({self._learning})
        if self._progress.step > self._progress.saved_step:
            self._records.save_progress(self._progress)
            await self._learner.save_checkpoint()
            self._progress.saved_step = self._progress.step


def _position(group_id: str) -> int:
    return int(group_id.removeprefix("g"))
