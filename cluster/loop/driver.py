"""The training loop.

::

    problems ──> sample ──> grade ──> buffer ──> learn ──> publish ──┐
        ▲          each completion       │                           │
        │          is graded as it ends  └─ filtered, stale ──┐      │
        └───────────────── slots are given back <─────────────┴──────┘

    sampling  waits for a slot                unblocked by publish, or by a filtered group
    grading   waits for a completion to end   unblocked by a sampler
    learning  waits for groups_per_step       unblocked by the last grade of a group
    publish   waits for every sampler         unblocked when each has proved that it serves the policy, and the evaluation of
                                              the policy before, if there is one, has ended

Synchronous GRPO is ``max_staleness`` 0: there are only as many slots as one step needs, so sampling waits for publish. With 1 the
next batch is sampled while the learner works on this one, with k there are k more. There is no other loop.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from cluster.config.config import Config
from cluster.errors import CaravanError, RunFolderError
from cluster.health.watch import HealthWatch, Response
from cluster.ledger.outcomes import Dropped, endings_of_dropped, endings_of_trained
from cluster.ledger.progress import Progress
from cluster.loop.buffer import Buffer, Slots
from cluster.loop.filters import GroupFilter
from cluster.loop.group_rollout import GroupRollout, rescoring
from cluster.loop.metrics import step_metrics
from cluster.loop.timeline import Timeline
from cluster.problems.dataset import ProblemStream
from cluster.protocols import GraderPool, Learner, SamplerPool
from cluster.types import (
    Group,
    GroupRequest,
    Outcome,
    PolicyVersion,
    Prompt,
    Sampling,
    StepReport,
    WeightSync,
)
from rollout.weight_sync_modes import weight_sync_mode

Batch = tuple[Group, ...]
Measure = Callable[[int], Coroutine[Any, Any, None]]
ResultT = TypeVar("ResultT")

MAX_GROUP_SIZE = 1 << 12
"""Seeds of one group's completions are consecutive, and those of different groups differ while no group is larger than this."""

MAX_ATTEMPTS = 3
"""How often a group is asked for that others overtake until it is too old; then its problem is left out as too slow."""

MAX_FAILED_IN_A_ROW = 8
"""Groups that may fail one after another, or as many as there are slots; then something else than they is broken."""


TOO_OLD = ("stale", "not_started", "too_slow")
"""Why a group was given up whose age, or whose wait for a sampler, was the trouble."""


class Records(Protocol):
    """Where the loop reports what happened; the real one is cluster.records."""

    def group_dropped(self, dropped: Dropped, step: int) -> None:
        """A group ended without being trained; ``step`` is the last one done."""
        ...

    def step_done(
        self,
        epoch: float,
        groups: Sequence[Group],
        report: StepReport,
        metrics: Mapping[str, float],
        active_overrides: Mapping[str, Any],
    ) -> None:
        """The learner has taken a step, with these settings of its own in force."""
        ...

    def phase_entered(self, step: int, values: Mapping[str, Any]) -> None:
        """After this step, settings have new values, by dotted key."""
        ...

    def health_noted(self, step: int, response: Response) -> None:
        """After this step, something was found about the run's health, or done for it."""
        ...

    def policy_published(self, version: int, syncs: Sequence[WeightSync], began_at: float, seconds: float) -> None:
        """Every sampler serves the policy of a step; ``began_at`` in Unix seconds."""
        ...

    def filtering_gave_up(self, step: int) -> None:
        """So many groups were filtered for one step that all are kept now."""
        ...

    def save_progress(self, step: int, state: str) -> None:
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
        measure: Measure | None = None,
        watch: HealthWatch | None = None,
    ) -> None:
        """``prompts`` by problem id; ``progress`` from where to go on; ``stop`` ends the run after the current step.

        ``measure`` is called with the step of each checkpoint but the last, while the samplers serve just that policy: the next
        one is published when it is done. ``watch`` judges every step, and may change settings or end the run.
        """
        loop = config.loop
        self._config = config  # as the phases have it now
        self._scheduled = config.schedule
        self._watch = watch
        self._schedule = config.schedule(watch.interventions if watch else ())
        self._phase: dict[str, Any] = {}  # what they have set
        self._seed = config.run.seed
        self._updates_running = weight_sync_mode(config.rollout).updates_running
        self._save_every_steps = loop.save_every_steps
        self._max_steps = max_steps
        self._stream = stream
        self._prompts = prompts
        self._samplers = samplers
        self._graders = graders
        self._learner = learner
        self._records = records
        self._progress = progress
        self._state_of_step = progress.to_json()  # the progress as it was when the last step was done
        self._recorded_step = progress.step  # the last step that the records have
        self._stop = stop
        self._measure = measure
        self._learning: asyncio.Task[PolicyVersion] | None = None
        self._attempts: dict[asyncio.Task[None], GroupRollout] = {}  # under way
        self._dropped: list[Dropped] = []  # since the last step
        self._num_failed = 0  # groups, since the last one that did not fail
        self._num_held_slots = 0  # of groups that were given up for their age, until the next policy
        self._timeline = Timeline()
        self._slots = Slots(
            groups_per_step=loop.groups_per_step,
            max_staleness=loop.max_staleness,
            num_groups=(max_steps - progress.step) * loop.groups_per_step,
            version=progress.step,
            oversampling=loop.oversampling,
        )
        self._buffer = Buffer(
            groups_per_step=loop.groups_per_step,
            keep=_filter(config),
            max_filtered_per_step=loop.max_filtered_per_step or 8 * loop.groups_per_step,
        )
        self._enter_phase()

    async def train(self) -> int:
        """Run to the last step, or until stopped; returns the last step done, which has a checkpoint."""
        async with asyncio.TaskGroup() as tasks:
            sampling = tasks.create_task(self._keep_sampling(tasks))
            publishing: asyncio.Task[None] | None = None
            measuring: asyncio.Task[None] | None = None
            while self._progress.step < self._max_steps and not self._stop.is_set():
                groups = await self._unless_stopped(self._buffer.take())
                if groups is None:
                    break
                await self._give_up_doomed()
                # Shielded: when another part fails meanwhile, the step is still taken and accounted for.
                self._learning = asyncio.create_task(self._learn(groups))
                policy = await asyncio.shield(self._learning)
                if publishing:
                    await publishing
                if measuring:  # what is being measured stays with the samplers that long
                    await measuring
                publishing = tasks.create_task(self._publish(policy, num_trained=len(groups)))
                if policy.number % self._save_every_steps == 0:
                    await self.save_checkpoint()
                    if self._measure and policy.number < self._max_steps:
                        measuring = tasks.create_task(self._measure_published(publishing, self._measure, policy.number))
            if publishing:
                await publishing
            sampling.cancel()
            for task in self._attempts:
                task.cancel()
        await self.save_checkpoint()
        return self._progress.step

    async def _keep_sampling(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._slots.acquire()
            attempt = self._next_attempt()
            task = tasks.create_task(self._sample_and_grade(attempt))
            self._attempts[task] = attempt
            task.add_done_callback(self._attempts.pop)

    def _enter_phase(self) -> None:
        """Take over what the phases say at this point of the run: for all groups that start from now on, and the next step."""
        phase = self._schedule.at(step=self._progress.step, epoch=self._progress.epoch(len(self._stream)))
        if phase != self._phase:
            self._records.phase_entered(
                self._progress.step, {k: v for k, v in phase.items() if v != self._phase.get(k)}
            )
            self._phase = phase
            self._config = self._config.changed(phase)
            self._buffer.keep = _filter(self._config)

    def _next_attempt(self) -> GroupRollout:
        rollout = self._config.rollout
        position = self._progress.start_next(rollout.group_size)
        problem = self._stream.at(position)
        number = self._progress.attempt_of(position)
        request = GroupRequest(
            group_id=f"g{position:07d}" if number == 1 else f"g{position:07d}-{number}",
            prompt=self._prompts[problem.id],
            group_size=rollout.group_size,
            sampling=Sampling(
                temperature=rollout.temperature, max_completion_tokens=rollout.max_completion_tokens, stop=rollout.stop
            ),
            seed=(self._seed << 32) + position * MAX_GROUP_SIZE,
        )
        rewarded = rescoring(self._config.grader) if self._phase else None
        return GroupRollout(problem, request, watcher=self._timeline, foregone=self._buffer.foregone, rewarded=rewarded)

    async def _sample_and_grade(self, attempt: GroupRollout) -> None:
        """One group from its problem to the buffer."""
        group = await attempt.run(self._samplers, self._graders)
        if attempt.given_up:
            end = attempt.given_up
            if end.outcome is Outcome.FILTERED:
                self._buffer.filtered()
            dropped: Dropped | None = Dropped(
                group=group, group_size=attempt.request.group_size, outcome=end.outcome, reason=end.reason
            )
        else:
            dropped = self._buffer.add(group)
        if dropped:
            await self._drop(dropped)
        self._require_progress(attempt, dropped)

    def _require_progress(self, attempt: GroupRollout, dropped: Dropped | None) -> None:
        """Raise CaravanError where groups do nothing but fail: others would fail for ever in their place."""
        if dropped is None or dropped.outcome is Outcome.FILTERED:
            self._num_failed = 0
        elif dropped.outcome is Outcome.FAILED:
            self._num_failed += 1
            if self._num_failed > max(MAX_FAILED_IN_A_ROW, self._slots.capacity):
                why = f"{dropped.reason}: {attempt.ungradable}" if attempt.ungradable else dropped.reason
                raise CaravanError(f"{self._num_failed} groups failed one after another, the last with: {why}")

    async def _give_up_doomed(self) -> None:
        """End what would be too old for the next step, now that the batch of this one is complete."""
        self._slots.next_version = self._progress.step + 1
        for attempt in self._attempts.values():
            if attempt.version is None:
                if self._slots.is_doomed(self._slots.published):
                    attempt.give_up(Outcome.STALE, "not_started")
                continue
            # Where policies change in flight, only what has ended keeps its age.
            version = attempt.oldest_version if self._updates_running else attempt.version
            if version is not None and self._slots.is_doomed(version):
                attempt.give_up(Outcome.STALE, "stale")
        for group in self._buffer.remove(self._slots.is_doomed):
            await self._drop(
                Dropped(group=group, group_size=len(group.completions), outcome=Outcome.STALE, reason="stale")
            )

    async def _learn(self, groups: Batch) -> PolicyVersion:
        began_at = time.time()
        active_overrides = {
            key.removeprefix("learner."): v for key, v in self._phase.items() if key.startswith("learner.")
        }
        with self._timeline.learning():
            policy, report = await self._learner.step(groups, active_overrides)
        self._progress.step_done([_position(group.id) for group in groups])
        for group in groups:
            for outcome, _ in endings_of_trained(group, report):
                self._progress.count(outcome, 1)
        state = self._progress.to_json()
        figures = self._timeline.cut({"samplers": self._samplers.usage(), "graders": self._graders.usage()})
        figures |= {"learn_began_at": began_at, "learned_at": time.time(), "max_steps": float(self._max_steps)}
        metrics = step_metrics(groups, self._dropped, report, self._progress, figures)
        self._dropped.clear()
        self._records.step_done(self._progress.epoch(len(self._stream)), groups, report, metrics, active_overrides)
        self._state_of_step, self._recorded_step = state, self._progress.step
        self._look_after(metrics)
        self._enter_phase()
        return policy

    def _look_after(self, metrics: Mapping[str, float]) -> None:
        """Have the run's health judged after a step, and do what follows from it."""
        if self._watch is None:
            return
        step, epoch = self._progress.step, self._progress.epoch(len(self._stream))
        response = self._watch.after_step({"step": step, "epoch": epoch, **metrics}, self._config)
        self._records.health_noted(step, response)
        if response.remedy:
            self._schedule = self._scheduled(self._watch.interventions)
        if response.stop:
            self._stop.set()

    async def _publish(self, policy: PolicyVersion, *, num_trained: int) -> None:
        began_at, began = time.time(), time.monotonic()
        with self._timeline.publishing():
            syncs = await self._samplers.publish(policy)
        self._records.policy_published(policy.number, syncs, began_at, time.monotonic() - began)
        if self._watch:
            self._watch.published(max((sync.gap for sync in syncs if sync.gap is not None), default=None))
        num_held, self._num_held_slots = self._num_held_slots, 0
        await self._slots.release(trained=num_trained, dropped=num_held, published=policy.number)

    async def _measure_published(self, publishing: asyncio.Task[None], measure: Measure, step: int) -> None:
        """Measure the policy that is being published, beside what is sampled and learned next."""
        await publishing
        with self._timeline.measuring():
            await self._unless_stopped(measure(step))

    async def _drop(self, dropped: Dropped) -> None:
        position = _position(dropped.group.id)
        if dropped.reason == "stale" and self._progress.attempt_of(position) >= MAX_ATTEMPTS:
            dropped = replace(dropped, outcome=Outcome.FILTERED, reason="too_slow")
        if dropped.outcome is Outcome.STALE:
            self._progress.stale(position)
        else:
            self._progress.dropped(position)
        for outcome, _ in endings_of_dropped(dropped):
            self._progress.count(outcome, 1)
        self._dropped.append(dropped)
        self._records.group_dropped(dropped, self._progress.step)
        if dropped.outcome is Outcome.FILTERED and self._buffer.gave_up_filtering:
            self._records.filtering_gave_up(self._progress.step)
        # Before the next policy, who took the slot would be as old; after it, nobody else would give the slot back.
        if dropped.reason in TOO_OLD and self._slots.next_version > self._slots.published:
            self._num_held_slots += 1
        else:
            await self._slots.release(dropped=1)

    async def _unless_stopped(self, work: Coroutine[Any, Any, ResultT]) -> ResultT | None:
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
        """Save the last step done, unless it is saved already; a step under way is waited for.

        Raises RunFolderError where the records lack that step: who went on from there would lack it for ever.
        """
        if self._learning:
            await asyncio.wait({self._learning})
        if self._recorded_step < self._progress.step:
            raise RunFolderError(
                f"step {self._progress.step} could not be written to the ledger, and is not saved without it"
            )
        if self._progress.step > self._progress.saved_step:
            self._records.save_progress(self._progress.step, self._state_of_step)
            await self._learner.save_checkpoint()
            self._progress.saved_step = self._progress.step


def _filter(config: Config) -> GroupFilter:
    loop = config.loop
    return GroupFilter(
        drop_without_signal=loop.drop_groups_without_signal,
        max_truncated_share=loop.max_truncated_share,
        min_mean_reward=loop.min_mean_reward,
        max_mean_reward=loop.max_mean_reward,
    )


def _position(group_id: str) -> int:
    """Of the problem stream, from ``g<position>`` or ``g<position>-<attempt>``."""
    return int(group_id.removeprefix("g").partition("-")[0])
