"""Samplers in Ray actors behind one interface.

::

    pool       groups -> completions, sampled again elsewhere where a sampler failed
    routing    which sampler gets which group, and who waits
    publisher  policies on their way to the samplers
    service    who serves: samplers start, prove themselves, die, leave
    staffing   how many there are                     scaling  how many there should be
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from uuid import uuid4

import ray

from cluster.actors.calls import next_answer
from cluster.actors.scaling import ScalingPolicy
from cluster.errors import CaravanError, DeadlineExceeded, GroupFailed, ModelError, SamplerError
from cluster.protocols import Reservation
from cluster.types import Completion, GroupRequest, PolicyVersion, ProbePrompt, Usage, WeightSync
from rollout.autoscaler import Staffing
from rollout.dispatcher import Router
from rollout.lifecycle import MAX_RERUNS, Service
from rollout.publisher import Publisher
from rollout.replica import SamplerPlan, Station
from rollout.settings import RolloutSettings, check_lora_rank

QUEUED_AHEAD = 1.25
"""Requests in an engine, as a multiple of those that it samples at a time, so that it never waits for the pool."""

SCALING = ScalingPolicy(
    unit="group",
    wait_seconds=10.0,
    settle_seconds=120.0,
    busy_share=0.5,
    growth_share=0.25,
    window_seconds=600.0,
    idle_share=0.2,
    target_share=0.4,
)
"""Slow in both directions: an engine takes minutes to start and a GPU to keep. Waiting groups alone are no reason to scale up:
more samplers do not help when they then idle until the learner has finished its step."""


class RaySamplerPool:
    """The SamplerPool of real runs: vLLM engines, each in a Ray actor, of which there are more or fewer over time.

    Needs ``ray.init`` to have been called, and lives in one event loop.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        *,
        model: str,
        lora_rank: int,
        lora_targets: Sequence[str] = (),
        max_staleness: int = 0,
        reservation: Reservation | None = None,
        tell: Callable[[str], None] = lambda _line: None,
        scaling: ScalingPolicy = SCALING,
    ) -> None:
        """Remember what to start; raises ConfigError for a LoRA rank that vLLM cannot serve.

        Args:
            settings: of the engines, and between which numbers the pool scales.
            model: folder or Hugging Face id.
            lora_rank: of the adapters that will be published.
            lora_targets: names of the modules that they train; none: whatever can carry an adapter may.
            max_staleness: how many policies beside the current one groups may be under way with.
            reservation: resources next to the run's other components; None when the pool has the cluster alone.
            tell: takes a line when the number of samplers changes, or cannot.
            scaling: when the number changes.
        """
        check_lora_rank(lora_rank)
        self._settings = settings
        self._model = model
        plan = SamplerPlan(
            settings=settings,
            model=model,
            lora_rank=lora_rank,
            lora_targets=tuple(lora_targets),
            max_staleness=max_staleness,
            pool_id=uuid4().hex,
        )
        self._router: Router[Station] = Router(int(QUEUED_AHEAD * settings.max_concurrent_requests))
        self._publisher = Publisher(settings)
        self._policies = self._publisher.policies
        self._service = Service(plan, self._router, self._publisher, tell)
        self._staffing = Staffing(
            settings, self._router, self._service, reservation=reservation, tell=tell, scaling=scaling
        )

    async def start(self, policy: PolicyVersion | None = None) -> None:
        """Start the engines and load the policy that a resumed run begins with.

        Waits for as many as have room, ``settings.min_samplers`` at least. Raises ResourcesError, ModelError, SamplerError or
        DeadlineExceeded; nothing is left running then.
        """
        try:
            await self._staffing.start()
            if policy is not None:
                await self.publish(policy)
        except (CaravanError, asyncio.CancelledError):
            self._staffing.stop()
            self._service.kill_all()
            raise

    async def scale(
        self, number: int | None = None, *, min_samplers: int | None = None, max_samplers: int | None = None
    ) -> str:
        """Have another number of samplers, or let it change between other bounds; returns one line about what follows.

        A number alone holds until the next call; with a bound, the pool scales on from there. What has begun to be sampled is
        ended where it is. Raises ConfigError for contradictions.
        """
        return await self._staffing.scale(number, min_samplers, max_samplers)

    async def sample_group(
        self, request: GroupRequest, started: Callable[[int], None] = lambda _version: None
    ) -> AsyncGenerator[Completion]:
        """Yield the ``G`` completions of a group, each as it ends; closing the iterator stops the others.

        When a sampler dies or hangs, what it had not handed over is sampled again elsewhere, under the same policy
        version. Raises GroupFailed where that was of no use, SamplerError or ModelError once there is no sampler.
        """
        self._check_fits(request)
        missing = set(range(request.group_size))
        station = await self._seat(missing)
        version = self._policies.acquire()
        num_deaths = 0
        try:
            started(version)
            while missing:
                actor = station.actor
                try:
                    async with aclosing(self._stream(station, request, missing, version)) as completions:
                        async for completion in completions:
                            yield completion
                except (SamplerError, DeadlineExceeded) as error:
                    self._service.dismiss(station, actor, error)
                    num_deaths += 1
                    if num_deaths > MAX_RERUNS:
                        raise GroupFailed(
                            f"group {request.group_id} failed on {num_deaths} samplers, the last time alone: {error}"
                        ) from error
                    station = await self._seat(missing, alone=num_deaths == MAX_RERUNS)
        finally:
            self._policies.release(version)

    async def publish(self, policy: PolicyVersion) -> tuple[WeightSync, ...]:
        """Load a policy on every sampler and have each prove it; on return new groups are sampled under it.

        A sampler that is down, or just being started, is not waited for while another one is open: it takes the policy before it
        is given work. Raises ModelError where vLLM refuses the adapter or a sampler cannot prove it, SamplerError,
        ResourcesError.
        """
        await self._publisher.publish(policy, self._service.serving, self._service.dismiss)
        await self._router.until_open()
        self._policies.promote(policy.number)
        return tuple(self._publisher.swaps)

    async def verify_base_model(self, probe: ProbePrompt) -> float:
        """The largest gap, in nats per token, between the samplers' scores of the base model and the learner's.

        To be asked before any policy is published. Raises ModelError where it is above what a policy may have, SamplerError or
        DeadlineExceeded where a sampler does not answer.
        """
        seconds = self._settings.publish_deadline_seconds
        gaps = []
        for verification in await asyncio.gather(
            *(station.verify_base_model(probe, seconds) for station in self._service.serving())
        ):
            assert verification.gap is not None
            if verification.failure is not None:
                raise ModelError(
                    f"the sampler (vLLM) and the learner (transformers) disagree about model {self._model!r} by "
                    f"{verification.gap:.2g} nats per token before any training (rollout.canary_tolerance is "
                    f"{verification.tolerance:g}): this model cannot be trained until both compute the same; compare "
                    "rollout.dtype with learner.dtype, or take another model"
                )
            gaps.append(verification.gap)
        if not gaps:
            raise SamplerError("no sampler is left to score the base model")
        return max(gaps)

    def usage(self) -> Usage:
        """What the samplers did so far."""
        return self._service.usage()

    async def close(self) -> None:
        """Stop every engine and leave no process behind; may be called twice."""
        self._router.fail(SamplerError("the sampler pool is closed"))
        await self._staffing.close()
        await self._service.close()

    async def _seat(self, missing: set[int], *, alone: bool = False) -> Station:
        """Wait for a sampler with room; one that dies just before it is told has not run the group."""
        while True:
            station = await self._router.take(len(missing), alone=alone)
            if station.is_open:
                return station
            self._router.give_back(station, len(missing))

    async def _stream(
        self, station: Station, request: GroupRequest, missing: set[int], version: int
    ) -> AsyncGenerator[Completion]:
        """Yield the missing completions of a group from one sampler, and take each off ``missing``."""
        actor = station.actor
        num_charged = len(missing)
        call = f"group {request.group_id} on {station.name}"
        try:
            stream = station.stream(request, missing, version)
            try:
                while missing:
                    completions = await next_answer(
                        stream,
                        call,
                        died=SamplerError,
                        deadline_seconds=self._settings.request_deadline_seconds,
                        deadline_key="rollout.request_deadline_seconds",
                    )
                    for completion in completions:
                        missing.remove(completion.index)
                        num_charged -= 1
                        self._router.give_back(station, 1)
                        yield completion
                    if station.actor is actor:  # what a dead one had sent off does not count
                        station.num_barren = 0
            finally:
                if missing:
                    ray.cancel(stream)
        finally:
            self._router.give_back(station, num_charged)

    def _check_fits(self, request: GroupRequest) -> None:
        """Refuse what the engine would refuse: sequences longer than it was started for."""
        wanted = len(request.prompt.token_ids) + request.sampling.max_completion_tokens
        limit = self._settings.max_prompt_tokens + self._settings.max_completion_tokens
        if wanted > limit:
            raise SamplerError(
                f"group {request.group_id} may take {wanted} tokens; the samplers were started for {limit} "
                "(rollout.max_prompt_tokens + rollout.max_completion_tokens)"
            )
