"""Sampling and grading of one group, for both training and evaluation."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import Protocol

from cluster.errors import GroupFailed, UngradableError
from cluster.protocols import GraderPool, SamplerPool
from cluster.types import Completion, Drop, DropReason, Grade, Group, GroupRequest, Problem, Timestamps
from grader.reward import profile_of, score
from grader.settings import GraderSettings


class RolloutObserver(Protocol):
    """Receiver of events about completions that are sampled or graded."""

    def requested(self, num_completions: int) -> None:
        """Count completions that were requested from a sampler."""

    def sampled(self) -> None:
        """Count one completion that arrived from a sampler and went to the graders."""

    def graded(self) -> None:
        """Count one completion that came back from the graders."""

    def cancelled(self, num_sampling: int, num_grading: int) -> None:
        """Count completions that samplers and graders no longer have to return."""


EarlyStop = Callable[[Group, int], DropReason | None]
"""Given the graded part of a group and the group size: reason to drop the group if the rest cannot change it, else None."""


def rescorer(settings: GraderSettings) -> Callable[[Grade], Grade]:
    """Return a function that re-scores the facts of a grade under settings other than those of the running graders."""
    profile = profile_of(settings)
    return lambda grade: score(grade.facts, profile)


class GroupRollout:
    """One group in flight. Each completion is graded as soon as it ends, while the others are still being sampled."""

    def __init__(
        self,
        problem: Problem,
        request: GroupRequest,
        *,
        observer: RolloutObserver | None = None,
        early_stop: EarlyStop | None = None,
        rescore: Callable[[Grade], Grade] | None = None,
    ) -> None:
        """``rescore`` replaces the reward of each grade; None keeps the graders'."""
        self.problem = problem
        self.request = request
        self.version: int | None = None  # policy version it started under; None while it waits for a sampler
        self.drop: Drop | None = None  # reason why it ended before all completions were graded
        self.grading_error: str | None = None  # error of the last ungradable completion
        self._observer = observer
        self._early_stop = early_stop
        self._rescore = rescore
        self._completions: dict[int, Completion] = {}  # by index, like the next three
        self._grades: dict[int, Grade | None] = {}
        self._sampled_at: dict[int, float] = {}
        self._graded_at: dict[int, float] = {}
        self._requested_at = 0.0
        self._task: asyncio.Task[object] | None = None

    async def run(self, samplers: SamplerPool, graders: GraderPool) -> Group:
        """Return the group. After ``cancel`` or a failed sampler it lacks the completions that had not ended (see ``drop``)."""
        if self.drop:  # cancelled before it started
            return self._group_of({})
        task = self._task = asyncio.current_task()
        self._requested_at = time.time()
        if self._observer:
            self._observer.requested(self.request.group_size)
        try:
            stream = aclosing(samplers.sample_group(self.request, self._start))
            async with asyncio.TaskGroup() as grading, stream as completions:
                async for completion in completions:
                    self._arrive(completion)
                    grading.create_task(self._grade(graders, completion))
        except asyncio.CancelledError:
            if self.drop is None or task is None:
                raise
            task.uncancel()
        except BaseExceptionGroup as failures:
            failed, others = failures.split(GroupFailed)
            if failed is None or others is not None:
                raise
            self.drop = Drop(DropReason.SAMPLER_FAILED, str(failed.exceptions[0]))
        finally:
            self._task = None
            if self._observer:
                num_arrived, num_graded = len(self._completions), len(self._graded_at)
                self._observer.cancelled(self.request.group_size - num_arrived, num_arrived - num_graded)
        return self._group_of(self._completions)

    def cancel(self, drop: Drop) -> None:
        """End the group now and abort the work of its sampler and graders."""
        if self.drop is None:
            self.drop = drop
            if self._task is not None:
                self._task.cancel()

    @property
    def oldest_version(self) -> int | None:
        """The oldest policy version among the completions that have ended; None before the first."""
        return min((completion.policy_version for completion in self._completions.values()), default=None)

    def _start(self, version: int) -> None:
        self.version = version

    def _arrive(self, completion: Completion) -> None:
        self._completions[completion.index] = completion
        self._sampled_at[completion.index] = time.time()
        if self._observer:
            self._observer.sampled()

    async def _grade(self, graders: GraderPool, completion: Completion) -> None:
        try:
            grade: Grade | None = await graders.grade(self.problem, completion)
            if grade and self._rescore:
                grade = self._rescore(grade)
        except UngradableError as error:
            self.grading_error = str(error)
            grade = None  # the machine failed: no reward, not in the baseline, and counted
        self._grades[completion.index] = grade
        self._graded_at[completion.index] = time.time()
        if self._observer:
            self._observer.graded()
        if self._early_stop and len(self._graded_at) < self.request.group_size:
            reason = self._early_stop(self._group_of(self._graded_at), self.request.group_size)
            if reason:
                self.cancel(Drop(reason))

    def _group_of(self, indexes: Mapping[int, object]) -> Group:
        """The part of the group with these completions."""
        ordered = sorted(indexes)
        return Group(
            id=self.request.group_id,
            position=self.request.position,
            problem=self.problem,
            completions=tuple(self._completions[index] for index in ordered),
            grades=tuple(self._grades.get(index) for index in ordered),
            timestamps=tuple(
                Timestamps(
                    requested=self._requested_at,
                    sampled=self._sampled_at[index],
                    graded=self._graded_at.get(index),
                )
                for index in ordered
            ),
        )
