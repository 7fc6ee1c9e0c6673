"""One sampler of a pool: the calls of its actor."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from cluster.actors.calls import packed, result_of
from cluster.actors.lifecycle import Replica
from cluster.errors import SamplerError
from cluster.types import GroupRequest, ProbeGap, ProbePrompt, WeightSync
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from rollout.weight_sync import Verification

SHUTDOWN_SECONDS = 20.0

CONCURRENT_CALLS = 10_000
"""Calls that an actor holds at a time; the pool limits the work by ``max_concurrent_requests``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerPlan:
    """Arguments of every sampler of a pool."""

    settings: RolloutSettings
    model: str
    lora_rank: int
    lora_targets: tuple[str, ...] = ()  # names of modules; empty: every module that can carry an adapter
    max_staleness: int
    pool_id: str


@dataclass(slots=True, eq=False)
class SamplerReplica(Replica):
    """One sampler of a pool; every call raises SamplerError when the actor died, DeadlineExceeded, or the actor's own error."""

    plan: SamplerPlan = field(kw_only=True)
    num_failed_verifications: int = 0  # in a row

    async def start_actor(self) -> None:
        """Start an actor and its engine; raises ModelError."""
        plan, settings = self.plan, self.plan.settings
        # All calls of the actor share one event loop, the one of its engine.
        self.actor = (
            ray.remote(Sampler)
            .options(
                num_cpus=settings.bundle["CPU"],
                num_gpus=settings.bundle.get("GPU", 0.0),
                max_concurrency=CONCURRENT_CALLS,
            )
            .remote(
                settings,
                model=plan.model,
                lora_rank=plan.lora_rank,
                lora_targets=plan.lora_targets,
                max_staleness=plan.max_staleness,
                pool_id=plan.pool_id,
            )
        )
        await self._call(
            self.actor.start.remote(),
            f"starting {self.name}",
            settings.num_per_gpu * settings.start_deadline_seconds,
            "rollout.start_deadline_seconds",
        )

    async def load_policy(
        self, policy: ray.ObjectRef, live: frozenset[int], tolerance: float, deadline_seconds: float
    ) -> tuple[WeightSync, Verification]:
        """Load a policy and verify it; raises ModelError, ResourcesError."""
        assert self.actor is not None
        begin = time.monotonic()
        verification: Verification = await self._call(
            self.actor.load_policy.remote(policy, live, tolerance),
            f"loading a policy on {self.name}",
            deadline_seconds,
            "rollout.publish_deadline_seconds",
        )
        seconds = time.monotonic() - begin
        sync = WeightSync(sampler=self.name, seconds=seconds, gap=verification.gap, tolerance=verification.tolerance)
        return sync, verification

    async def base_gaps(self, probes: Sequence[ProbePrompt], deadline_seconds: float) -> tuple[ProbeGap, ...]:
        """Compare the scores of the base model with the learner's; raises ModelError."""
        assert self.actor is not None
        gaps: tuple[ProbeGap, ...] = await self._call(
            self.actor.base_gaps.remote(probes),
            f"scoring the base model on {self.name}",
            deadline_seconds,
            "rollout.publish_deadline_seconds",
        )
        return gaps

    def stream(self, request: GroupRequest, indexes: set[int], version: int) -> ray.ObjectRefGenerator:
        """Sample completions of a group; each item is a packed tuple of completions that ended."""
        assert self.actor is not None
        stream: ray.ObjectRefGenerator = self.actor.stream.remote(packed((request, sorted(indexes), version)))
        return stream

    async def stop_actor(self) -> None:
        """Shut the engine down cleanly."""
        if self.actor is not None:
            await self._call(self.actor.shutdown.remote(), f"shutting {self.name} down", SHUTDOWN_SECONDS)

    async def _call(self, reference: ray.ObjectRef, call: str, deadline_seconds: float, deadline_key: str = "") -> Any:
        return await result_of(
            reference,
            call,
            death_error=SamplerError,
            failure_error=SamplerError,
            deadline_seconds=deadline_seconds,
            deadline_key=deadline_key,
        )
