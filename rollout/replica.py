"""A place for one sampler: its actor now, and what was seen of those that were there before."""

import asyncio
import time
from dataclasses import dataclass, field

import ray
from ray.actor import ActorHandle

from cluster.actors.calls import answer
from cluster.errors import SamplerError
from cluster.types import GroupRequest, ProbePrompt, WeightSync
from rollout.actor import CONCURRENT_CALLS, SamplerActor
from rollout.dispatcher import Seat
from rollout.settings import RolloutSettings
from rollout.weight_sync import Verification

SHUTDOWN_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerPlan:
    """What every sampler of a pool is started with."""

    settings: RolloutSettings
    model: str
    lora_rank: int
    lora_targets: tuple[str, ...] = ()  # names of modules; none: whatever can carry an adapter may
    max_staleness: int
    pool_id: str


@dataclass(slots=True, eq=False)
class Station(Seat):
    """One sampler of a pool; when its actor dies, another one takes the place."""

    actor: ActorHandle | None = None
    starting: asyncio.Task[None] | None = None  # while an actor is being started and brought to the live policies
    there_since: float | None = (
        None  # monotonic seconds, since when it was given work and ended it; None: it is not there
    )
    down_since: float = field(default_factory=time.monotonic)  # while no work is given to it
    start_again_at: float = 0.0  # monotonic seconds
    trouble: str = "there was no room for it"  # why it is down
    num_failed: int = 0  # starts, one after another
    num_barren: int = 0  # actors that died here one after another without handing over a completion
    num_unproved: int = 0  # engines that failed their verification here one after another

    async def start(self, plan: SamplerPlan) -> None:
        """Start an actor and its engine; raises ModelError, SamplerError, DeadlineExceeded."""
        settings = plan.settings
        self.actor = (
            ray.remote(SamplerActor)
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
        await answer(
            self.actor.start.remote(),
            f"starting {self.name}",
            died=SamplerError,
            failed=SamplerError,
            deadline_seconds=settings.start_deadline_seconds,
            deadline_key="rollout.start_deadline_seconds",
        )

    async def load(
        self, policy: ray.ObjectRef, live: frozenset[int], deadline_seconds: float
    ) -> tuple[WeightSync, Verification]:
        """Have the sampler take a policy and show that it serves it.

        Raises ModelError, ResourcesError, SamplerError, DeadlineExceeded.
        """
        assert self.actor is not None
        begin = time.monotonic()
        verification: Verification = await answer(
            self.actor.load_policy.remote(policy, live),
            f"loading a policy on {self.name}",
            died=SamplerError,
            failed=SamplerError,
            deadline_seconds=deadline_seconds,
            deadline_key="rollout.publish_deadline_seconds",
        )
        seconds = time.monotonic() - begin
        return WeightSync(sampler=self.name, seconds=seconds, gap=verification.gap), verification

    async def verify_base_model(self, probe: ProbePrompt, deadline_seconds: float) -> Verification:
        """Have the sampler show how it serves the base model; raises ModelError, SamplerError, DeadlineExceeded."""
        assert self.actor is not None
        verification: Verification = await answer(
            self.actor.verify_base_model.remote(probe),
            f"scoring the base model on {self.name}",
            died=SamplerError,
            failed=SamplerError,
            deadline_seconds=deadline_seconds,
            deadline_key="rollout.publish_deadline_seconds",
        )
        return verification

    def stream(self, request: GroupRequest, indexes: set[int], version: int) -> ray.ObjectRefGenerator:
        """Ask for completions of a group; each answer is a tuple of some that have ended."""
        assert self.actor is not None
        return self.actor.sample.options(num_returns="streaming").remote(request, sorted(indexes), version)

    async def shutdown(self) -> None:
        """Stop the engine in good order; raises SamplerError, DeadlineExceeded."""
        if self.actor is not None:
            await answer(
                self.actor.shutdown.remote(),
                f"shutting {self.name} down",
                died=SamplerError,
                failed=SamplerError,
                deadline_seconds=SHUTDOWN_SECONDS,
            )

    def stop_starting(self) -> None:
        """Give up a start that is under way; the actor is still there."""
        if self.starting is not None:
            self.starting.cancel()

    def kill(self) -> None:
        """End the actor at once."""
        if self.actor is not None:
            ray.kill(self.actor)
            self.actor = None
