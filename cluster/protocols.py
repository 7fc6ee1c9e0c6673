"""Interfaces between the driver and its pools, which may run in other processes. Standard library only.

Each protocol has a real implementation over Ray and a fake one for tests and benchmarks.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol

from cluster.types import (
    Completion,
    Grade,
    Group,
    GroupRequest,
    PolicyVersion,
    Problem,
    StepReport,
    Usage,
    WeightSync,
)


class Reservation(Protocol):
    """Resources that a cluster reserves for one pool of a run; the real one is cluster.placement.reservations.

    Both methods ask Ray, and may block for some milliseconds.
    """

    def num_additional(self, num_present: int) -> int:
        """Return the number of additional replicas that fit now, given the replicas present and the other reservations."""
        ...

    def request(self, number: int, *, minimum: int, num_unplaced: int) -> None:
        """Set the wanted and the minimum number of replicas.

        If ``num_unplaced`` of them lack resources for a while, Ray's autoscaler is asked for machines.
        """
        ...


class SamplerPool(Protocol):
    """A pool of samplers; the real one is rollout.pool, the fake one rollout.fake."""

    def sample_group(self, request: GroupRequest, started: Callable[[int], None] = ...) -> AsyncGenerator[Completion]:
        """Yield the ``G`` completions of a group, each as it ends, in any order.

        ``started`` is called with the policy version when a sampler accepts the group. Closing the iterator aborts the
        remaining completions in the engine. Raises GroupFailed if only this group cannot be sampled, SamplerError if
        none can.
        """
        ...

    async def publish(self, policy: PolicyVersion) -> Sequence[WeightSync]:
        """Load a policy on every sampler and verify each; on return new groups are sampled under it.

        Groups that are being sampled finish under their policy; in the in-flight weight sync modes they switch to the new one.
        """
        ...

    def usage(self) -> Usage:
        """Return the work of the samplers so far."""
        ...

    async def close(self) -> None:
        """Stop every engine and leave no process behind; may be called twice."""
        ...


class GraderPool(Protocol):
    """A pool of graders; the real one is grader.pool, the fake one grader.fake."""

    async def grade(self, problem: Problem, completion: Completion) -> Grade:
        """Grade one completion; raises UngradableError when several workers failed on it."""
        ...

    def usage(self) -> Usage:
        """Return the work of the graders so far."""
        ...

    async def close(self) -> None:
        """Stop every worker; may be called twice."""
        ...


class Learner(Protocol):
    """A learner that turns groups into policy versions; the real one is learner.client, the fake one learner.fake."""

    async def start(self) -> PolicyVersion | None:
        """Load the model and resume from the newest complete checkpoint. Return its policy; None if there is none."""
        ...

    async def step(
        self, groups: Sequence[Group], active_overrides: Mapping[str, Any] = ...
    ) -> tuple[PolicyVersion, StepReport]:
        """Take one optimizer step on whole groups.

        ``active_overrides``: settings of the ``learner`` section, by dotted key below it, that replace the configured ones for
        this step. A learner that dies is restarted, brought back to the last step, and takes the step again.
        """
        ...

    async def save_checkpoint(self) -> str:
        """Write a complete checkpoint for the current step and return its folder."""
        ...

    async def close(self) -> None:
        """Stop the learner; may be called twice."""
        ...
