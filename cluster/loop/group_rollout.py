"""One group from its prompt to its grades; training and evaluation both go through here."""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from cluster.errors import GroupFailed, UngradableError
from cluster.protocols import GraderPool, SamplerPool
from cluster.types import Completion, Grade, Group, GroupRequest, Outcome, Problem, Timestamps
from grader.reward import profile_of, score
from grader.settings import GraderSettings


class Watcher(Protocol):
    """Hears of every completion on its way."""

    def asked(self, num_completions: int) -> None:
        """Completions were asked for."""

    def sampled(self) -> None:
        """One of them came from a sampler and went to the graders."""

    def graded(self) -> None:
        """One of them came back from the graders."""

    def dismissed(self, num_sampling: int, num_grading: int) -> None:
        """So many are no longer waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """What ended a group before all of its completions were graded."""

    outcome: Outcome
    reason: str


Foregone = Callable[[Group, int], str | None]
"""Why a group of that many completions will be left out, whatever those are that are not graded yet; None: it may not."""


def rescoring(settings: GraderSettings) -> Callable[[Grade], Grade]:
    """A function that scores the facts of a grade under other settings than those that the graders were started with."""
    profile = profile_of(settings)
    return lambda grade: score(grade.facts, profile)


class GroupRollout:
    """Samples a group, and grades each completion as soon as it ends, while the others are still being sampled."""

    def __init__(
        self,
        problem: Problem,
        request: GroupRequest,
        *,
        watcher: Watcher | None = None,
        foregone: Foregone | None = None,
        rewarded: Callable[[Grade], Grade] | None = None,
    ) -> None:
        """``rewarded`` gives a grade the reward that counts, where that is not the graders' own."""
        self.problem = problem
        self.request = request
        self.version: int | None = None  # the policy that it is sampled under; None while it waits for a sampler
        self.given_up: GivenUp | None = None
        self.ungradable: str | None = None  # why the graders failed at one of its completions
        self._watcher = watcher
        self._foregone = foregone
        self._rewarded = rewarded
        self._completions: dict[int, Completion] = {}  # by index, as the following
        self._grades: dict[int, Grade | None] = {}
        self._sampled_at: dict[int, float] = {}
        self._graded_at: dict[int, float] = {}
        self._asked_at = 0.0
        self._task: asyncio.Task[object] | None = None

    async def run(self, samplers: SamplerPool, graders: GraderPool) -> Group:
        """Return the group, which lacks what had not ended where it was given up on the way (see ``given_up``)."""
        if self.given_up:  # before its turn came
            return self._so_far({})
        task = self._task = asyncio.current_task()
        self._asked_at = time.time()
        if self._watcher:
            self._watcher.asked(self.request.group_size)
        try:
            stream = aclosing(samplers.sample_group(self.request, self._start))
            async with asyncio.TaskGroup() as grading, stream as completions:
                async for completion in completions:
                    self._arrive(completion)
                    grading.create_task(self._grade(graders, completion))
        except asyncio.CancelledError:
            if self.given_up is None or task is None:
                raise
            task.uncancel()
        except BaseExceptionGroup as failures:
            failed, others = failures.split(GroupFailed)
            if failed is None or others is not None:
                raise
            self.given_up = GivenUp(outcome=Outcome.FAILED, reason=f"sampler_failed: {failed.exceptions[0]}")
        finally:
            self._task = None
            if self._watcher:
                num_arrived, num_graded = len(self._completions), len(self._graded_at)
                self._watcher.dismissed(self.request.group_size - num_arrived, num_arrived - num_graded)
        return self._so_far(self._completions)

    def give_up(self, outcome: Outcome, reason: str) -> None:
        """End the group now; what its sampler and graders are still at is called back."""
        if self.given_up is None:
            self.given_up = GivenUp(outcome=outcome, reason=reason)
            if self._task is not None:
                self._task.cancel()

    @property
    def oldest_version(self) -> int | None:
        """The oldest policy among the completions that have ended; None before the first."""
        return min((completion.policy_version for completion in self._completions.values()), default=None)

    def _start(self, version: int) -> None:
        self.version = version

    def _arrive(self, completion: Completion) -> None:
        self._completions[completion.index] = completion
        self._sampled_at[completion.index] = time.time()
        if self._watcher:
            self._watcher.sampled()

    async def _grade(self, graders: GraderPool, completion: Completion) -> None:
        try:
            grade: Grade | None = await graders.grade(self.problem, completion)
            if grade and self._rewarded:
                grade = self._rewarded(grade)
        except UngradableError as error:
            self.ungradable = str(error)
            grade = None  # not the completion's fault: it gets no reward, stays out of the baseline, and is counted
        self._grades[completion.index] = grade
        self._graded_at[completion.index] = time.time()
        if self._watcher:
            self._watcher.graded()
        if self._foregone and len(self._graded_at) < self.request.group_size:
            reason = self._foregone(self._so_far(self._graded_at), self.request.group_size)
            if reason:
                self.give_up(Outcome.FILTERED, reason)

    def _so_far(self, indexes: Mapping[int, object]) -> Group:
        ordered = sorted(indexes)
        return Group(
            id=self.request.group_id,
            problem=self.problem,
            completions=tuple(self._completions[index] for index in ordered),
            grades=tuple(self._grades.get(index) for index in ordered),
            timestamps=tuple(
                Timestamps(requested=self._asked_at, sampled=self._sampled_at[index], graded=self._graded_at.get(index))
                for index in ordered
            ),
        )
