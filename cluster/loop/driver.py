"""The training loop.

::

    problems ──> sample ──> grade ──> buffer ──> learn ──> publish ──┐
        ▲          each completion       │                           │
        │          is graded as it ends  └─ filtered, stale ──┐      │
        └──────────────── limit allows new groups <───────────┴──────┘

    sampling  waits for the in-flight limit   unblocked by publish, or by a filtered group
    grading   waits for a completion to end   unblocked by a sampler
    learning  waits for groups_per_step       unblocked by the last grade of a group
    publish   waits for every sampler         unblocked when each is verified on the policy; starts after the evaluation of
                                              the previous policy, if there is one

``max_staleness`` 0 is synchronous GRPO: the in-flight limit is one batch, so sampling waits for publish. With 1 the next batch is
sampled while the learner works on this one, with k the next k batches. There is no other loop.
"""

import asyncio
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from cluster.config.config import Config
from cluster.errors import CaravanError, RunFolderError
from cluster.ledger.outcomes import DroppedGroup, drops_of_dropped, drops_of_trained
from cluster.ledger.progress import Progress
from cluster.loop.buffer import Buffer, InFlightLimit
from cluster.loop.filters import GroupFilter
from cluster.loop.garbage import existing_objects_frozen
from cluster.loop.group_rollout import GroupRollout, rescorer
from cluster.loop.metrics import step_metrics
from cluster.loop.parts import Evaluate, Hooks, Pools, TrainingProblems
from cluster.loop.timeline import Timeline
from cluster.types import (
    Drop,
    DropReason,
    Group,
    GroupRequest,
    Outcome,
    PolicyVersion,
    Sampling,
)
from rollout.weight_sync_modes import weight_sync_mode

ResultT = TypeVar("ResultT")

MAX_GROUP_SIZE = 1 << 12
"""Limit of the group size: seeds within a group are consecutive, and seeds of different groups must differ."""

MAX_ATTEMPTS = 3
"""Maximum number of times that a problem is sampled because its groups become stale; then it is dropped as too slow."""

MAX_CONSECUTIVE_FAILURES = 8
"""Consecutive failed groups, or the in-flight limit if that is higher, after which the run ends."""


class Driver:
    """The loop of one run: sample, grade, learn, publish, until the last step or a stop."""

    def __init__(
        self,
        config: Config,
        pools: Pools,
        problems: TrainingProblems,
        hooks: Hooks,
        *,
        max_steps: int,
        progress: Progress,
        stop: asyncio.Event,
    ) -> None:
        """``progress``: state to start from. ``stop`` ends the run after the current step."""
        loop = config.loop
        self._configured = config
        self._config = config  # with the active overrides
        self._overrides: dict[str, Any] = {}  # active ones, by dotted key
        self._schedule = config.settings_schedule(hooks.health.adjustments if hooks.health else ())
        self._samplers, self._graders, self._learner = pools.samplers, pools.graders, pools.learner
        self._stream, self._prompts = problems.stream, problems.prompts
        self._recorder, self._evaluate, self._health = hooks.recorder, hooks.evaluate, hooks.health
        self._max_steps = max_steps
        self._progress = progress
        self._state_of_step = progress.to_json()  # progress right after the last step
        self._recorded_step = progress.step  # newest step in the ledger
        self._stop = stop
        self._learning: asyncio.Task[PolicyVersion] | None = None
        self._rollouts: dict[asyncio.Task[None], GroupRollout] = {}  # in flight
        self._dropped: list[DroppedGroup] = []  # since the last step
        self._num_consecutive_failures = 0  # groups
        self._num_stale_in_flight = 0  # groups cancelled as stale that stay in flight until the next policy
        self._timeline = Timeline()
        self._in_flight = InFlightLimit(
            groups_per_step=loop.groups_per_step,
            max_staleness=loop.max_staleness,
            num_groups=(max_steps - progress.step) * loop.groups_per_step,
            version=progress.step,
            oversampling=loop.oversampling,
        )
        self._buffer = Buffer(
            groups_per_step=loop.groups_per_step,
            group_filter=_group_filter(config),
            max_filtered_per_step=loop.max_filtered_per_step or 8 * loop.groups_per_step,
        )
        self._apply_schedule()

    async def train(self) -> int:
        """Run to the last step or until stopped. Return the last step done, which has a checkpoint."""
        with existing_objects_frozen():
            await self._loop()
        await self.save_checkpoint()
        return self._progress.step

    async def _loop(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            sampling = tasks.create_task(self._keep_sampling(tasks))
            publishing: asyncio.Task[None] | None = None
            evaluating: asyncio.Task[None] | None = None
            while self._progress.step < self._max_steps and not self._stop.is_set():
                groups = await self._unless_stopped(self._buffer.take())
                if groups is None:
                    break
                await self._cancel_stale()
                # Shielded: if another part fails during the step, the step is still taken and recorded.
                self._learning = asyncio.create_task(self._learn(groups))
                policy = await asyncio.shield(self._learning)
                if publishing:
                    await publishing
                if evaluating:  # the samplers keep the policy until its evaluation has ended
                    await evaluating
                publishing = tasks.create_task(self._publish(policy, num_trained=len(groups)))
                if policy.number % self._configured.loop.save_every_steps == 0:
                    await self.save_checkpoint()
                    if self._evaluate and policy.number < self._max_steps:
                        evaluating = tasks.create_task(
                            self._evaluate_published(publishing, self._evaluate, policy.number)
                        )
            if publishing:
                await publishing
            sampling.cancel()
            for task in self._rollouts:
                task.cancel()

    async def _keep_sampling(self, tasks: asyncio.TaskGroup) -> None:
        """Start a group whenever the in-flight limit allows it."""
        while True:
            await self._in_flight.acquire()
            rollout = self._next_rollout()
            task = tasks.create_task(self._sample_and_grade(rollout))
            self._rollouts[task] = rollout
            task.add_done_callback(self._rollouts.pop)

    def _next_rollout(self) -> GroupRollout:
        settings = self._config.rollout
        position = self._progress.start_next(settings.group_size)
        problem = self._stream.at(position)
        attempt = self._progress.attempt_of(position)
        request = GroupRequest(
            group_id=f"g{position:07d}" if attempt == 1 else f"g{position:07d}-{attempt}",
            position=position,
            prompt=self._prompts[problem.id],
            group_size=settings.group_size,
            sampling=Sampling(
                temperature=settings.temperature,
                max_completion_tokens=settings.max_completion_tokens,
                stop=settings.stop,
            ),
            seed=(self._configured.run.seed << 32) + position * MAX_GROUP_SIZE,
        )
        rescore = rescorer(self._config.grader) if self._overrides else None
        return GroupRollout(
            problem, request, observer=self._timeline, early_stop=self._buffer.early_stop, rescore=rescore
        )

    async def _sample_and_grade(self, rollout: GroupRollout) -> None:
        """Take one group from its problem to the buffer."""
        group = await rollout.run(self._samplers, self._graders)
        dropped: DroppedGroup | None
        if rollout.drop:
            if rollout.drop.outcome is Outcome.FILTERED:
                self._buffer.count_filtered()
            dropped = DroppedGroup(group=group, group_size=rollout.request.group_size, drop=rollout.drop)
        else:
            dropped = self._buffer.add(group)
        if dropped:
            await self._drop(dropped)
        self._count_failures(rollout, dropped)

    def _count_failures(self, rollout: GroupRollout, dropped: DroppedGroup | None) -> None:
        """Raise CaravanError after too many consecutive failures, since their replacements would fail as well."""
        if dropped is None or dropped.drop.outcome is Outcome.FILTERED:
            self._num_consecutive_failures = 0
        elif dropped.drop.outcome is Outcome.FAILED:
            self._num_consecutive_failures += 1
            if self._num_consecutive_failures > max(MAX_CONSECUTIVE_FAILURES, self._in_flight.limit):
                why = f"{dropped.drop}: {rollout.grading_error}" if rollout.grading_error else str(dropped.drop)
                raise CaravanError(f"{self._num_consecutive_failures} consecutive groups failed, the last with: {why}")

    async def _cancel_stale(self) -> None:
        """Cancel and drop groups that are too old for the next step, now that the batch of this one is complete."""
        self._in_flight.next_version = self._progress.step + 1
        updates_running = weight_sync_mode(self._configured.rollout).updates_running
        for rollout in self._rollouts.values():
            if rollout.version is None:
                if self._in_flight.is_stale(self._in_flight.published):
                    rollout.cancel(Drop(DropReason.NOT_STARTED))
                continue
            # With in-flight weight sync, only completions that have ended keep their version.
            version = rollout.oldest_version if updates_running else rollout.version
            if version is not None and self._in_flight.is_stale(version):
                rollout.cancel(Drop(DropReason.STALE))
        for group in self._buffer.remove_stale(self._in_flight.is_stale):
            drop = Drop(DropReason.STALE)
            await self._drop(DroppedGroup(group=group, group_size=len(group.completions), drop=drop))

    async def _drop(self, dropped: DroppedGroup) -> None:
        """Record a group that is not trained, and let another start."""
        position = dropped.group.position
        if dropped.drop.reason is DropReason.STALE and self._progress.attempt_of(position) >= MAX_ATTEMPTS:
            dropped = replace(dropped, drop=Drop(DropReason.TOO_SLOW))
        if dropped.drop.outcome is Outcome.STALE:
            self._progress.group_stale(position)
        else:
            self._progress.group_dropped(position)
        for drop in drops_of_dropped(dropped):
            self._progress.count_completions(drop.outcome, 1)
        self._dropped.append(dropped)
        self._recorder.group_dropped(dropped, self._progress.step)
        if dropped.drop.outcome is Outcome.FILTERED and self._buffer.is_filter_suspended:
            self._recorder.filter_suspended(self._progress.step)
        # Until the next publish, a replacement would be as old as this group; after the last one, nothing would release it.
        was_too_old = dropped.drop.outcome is Outcome.STALE or dropped.drop.reason is DropReason.TOO_SLOW
        if was_too_old and self._in_flight.next_version > self._in_flight.published:
            self._num_stale_in_flight += 1
        else:
            await self._in_flight.release(dropped=1)

    async def _learn(self, groups: Sequence[Group]) -> PolicyVersion:
        """Take one learner step, record it and check the run's health."""
        began_at = time.time()
        active_overrides = {
            key.removeprefix("learner."): value for key, value in self._overrides.items() if key.startswith("learner.")
        }
        with self._timeline.learning():
            policy, report = await self._learner.step(groups, active_overrides)
        self._progress.step_done([group.position for group in groups])
        for group in groups:
            for drop in drops_of_trained(group, report):
                self._progress.count_completions(drop.outcome if drop else Outcome.TRAINED, 1)
        state = self._progress.to_json()
        times = self._timeline.take_metrics({"samplers": self._samplers.usage(), "graders": self._graders.usage()})
        times |= {"learn_began_at": began_at, "learned_at": time.time(), "max_steps": float(self._max_steps)}
        metrics = step_metrics(groups, self._dropped, report, self._progress, times)
        self._dropped.clear()
        self._recorder.step_done(self._epoch(), groups, report, metrics, active_overrides)
        self._state_of_step, self._recorded_step = state, self._progress.step
        self._check_health(metrics)
        self._apply_schedule()
        return policy

    def _check_health(self, metrics: Mapping[str, float]) -> None:
        """Check the run's health after a step; apply a mitigation or stop if the response says so."""
        if self._health is None:
            return
        step = self._progress.step
        response = self._health.after_step({"step": step, "epoch": self._epoch(), **metrics}, self._config)
        self._recorder.health_checked(step, response)
        if response.mitigation:
            self._schedule = self._configured.settings_schedule(self._health.adjustments)
        if response.stop:
            self._stop.set()

    def _apply_schedule(self) -> None:
        """Apply the settings of the schedule to groups that start from now on, and to the next step."""
        overrides = self._schedule.at(step=self._progress.step, epoch=self._epoch())
        if overrides != self._overrides:
            changed = {key: value for key, value in overrides.items() if value != self._overrides.get(key)}
            self._recorder.settings_changed(self._progress.step, changed)
            self._overrides = overrides
            self._config = self._config.changed(overrides)
            self._buffer.filter = _group_filter(self._config)

    async def _publish(self, policy: PolicyVersion, *, num_trained: int) -> None:
        """Load a policy on all samplers; the groups that it was trained on are then no longer in flight."""
        began_at, began = time.time(), time.monotonic()
        with self._timeline.publishing():
            syncs = await self._samplers.publish(policy)
        self._recorder.policy_published(policy.number, syncs, began_at, time.monotonic() - began)
        if self._health:
            self._health.published(max((sync.gap for sync in syncs if sync.gap is not None), default=None))
        num_stale, self._num_stale_in_flight = self._num_stale_in_flight, 0
        await self._in_flight.release(trained=num_trained, dropped=num_stale, published=policy.number)

    async def _evaluate_published(self, publishing: asyncio.Task[None], evaluate: Evaluate, step: int) -> None:
        """Evaluate the policy that is being published, while the next batch is sampled and learned."""
        await publishing
        with self._timeline.evaluating():
            await self._unless_stopped(evaluate(step))

    async def save_checkpoint(self) -> None:
        """Save a checkpoint of the last step done, unless there is one; wait for a step that is being taken.

        Raises RunFolderError if the ledger lacks that step, since a resumed run would never write it.
        """
        if self._learning:
            await asyncio.wait({self._learning})
        if self._recorded_step < self._progress.step:
            raise RunFolderError(
                f"step {self._progress.step} could not be written to the ledger, so it gets no checkpoint"
            )
        if self._progress.step > self._progress.saved_step:
            self._recorder.save_progress(self._progress.step, self._state_of_step)
            await self._learner.save_checkpoint()
            self._progress.saved_step = self._progress.step

    async def _unless_stopped(self, work: Coroutine[Any, Any, ResultT]) -> ResultT | None:
        """Return the result of the work; None if the run is stopped first."""
        stopping = asyncio.create_task(self._stop.wait())
        working = asyncio.create_task(work)
        try:
            await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            working.cancel()
        return working.result() if working.done() and not working.cancelled() else None

    def _epoch(self) -> float:
        return self._progress.epoch(len(self._stream))


def _group_filter(config: Config) -> GroupFilter:
    loop = config.loop
    return GroupFilter(
        drop_without_signal=loop.drop_groups_without_signal,
        max_truncated_share=loop.max_truncated_share,
        min_mean_reward=loop.min_mean_reward,
        max_mean_reward=loop.max_mean_reward,
    )
