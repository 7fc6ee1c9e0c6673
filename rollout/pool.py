"""Samplers in Ray actors behind one interface.

::

    pool        groups -> completions; those that a failed sampler did not return are sampled again on another one
    lifecycle   states of the samplers, and their policies
    cluster.actors: dispatcher, autoscaler, scaling policy
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from uuid import uuid4

import ray

from cluster.actors.autoscaler import Autoscaler
from cluster.actors.calls import next_result, unpacked
from cluster.actors.dispatcher import Dispatcher
from cluster.actors.resources import SETTLE_SECONDS, wait_for_resources
from cluster.actors.scaling import ScalingPolicy
from cluster.errors import CaravanError, DeadlineExceeded, GroupFailed, ModelError, SamplerError
from cluster.protocols import Reservation
from cluster.types import Bounds, Completion, GroupRequest, PolicyVersion, ProbeGap, ProbePrompt, Usage, WeightSync
from rollout.lifecycle import MAX_RERUNS, SamplerLifecycle
from rollout.replica import SamplerPlan, SamplerReplica
from rollout.settings import RolloutSettings, max_lora_rank
from rollout.weight_sync import max_base_gap, typical_gap

QUEUED_AHEAD = 1.25
"""Requests in an engine, as a multiple of those that it samples concurrently, so that it never waits for the pool."""

SCALING = ScalingPolicy(
    unit="group",
    scale_up_wait_seconds=10.0,
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
    """The SamplerPool of real runs: vLLM engines, each in a Ray actor. Lives in one event loop, after ``ray.init``."""

    def __init__(
        self,
        settings: RolloutSettings,
        *,
        model: str,
        lora_rank: int,
        lora_targets: Sequence[str] = (),
        max_staleness: int = 0,
        learner_is_quantized: bool = False,
        reservation: Reservation | None = None,
        log: Callable[[str], None] = lambda _line: None,
        scaling: ScalingPolicy = SCALING,
    ) -> None:
        """Start nothing yet; raises ConfigError for a LoRA rank that vLLM does not support.

        Args:
            settings: options of the engines, and the bounds of their number.
            model: folder or Hugging Face id.
            lora_rank: rank of the adapters that will be published.
            lora_targets: names of the modules that the adapters train; empty: every module that can carry an adapter.
            max_staleness: number of policies before the current one under which groups may still be sampled.
            learner_is_quantized: the learner's base model has fewer bits than that of the engines.
            reservation: resources next to the run's other components; None when no other component uses the cluster.
            log: takes a log line.
            scaling: conditions of scaling up and down.
        """
        max_lora_rank(lora_rank)  # refuses ranks that no engine would serve
        self._settings = settings
        self._model = model
        self._max_base_gap = max_base_gap(settings, learner_is_quantized=learner_is_quantized)
        plan = SamplerPlan(
            settings=settings,
            model=model,
            lora_rank=lora_rank,
            lora_targets=tuple(lora_targets),
            max_staleness=max_staleness,
            pool_id=uuid4().hex,
        )
        self._dispatcher: Dispatcher[SamplerReplica] = Dispatcher(int(QUEUED_AHEAD * settings.max_concurrent_requests))
        self._lifecycle = SamplerLifecycle(plan, self._dispatcher, log)
        self._policies = self._lifecycle.policies
        self._autoscaler = Autoscaler(
            self._lifecycle,
            num_wanted=settings.num_samplers,
            bounds=Bounds(minimum=settings.minimum, maximum=settings.maximum),
            scaling=scaling,
            reservation=reservation,
            log=log,
        )

    async def start(self, policy: PolicyVersion | None = None) -> None:
        """Start the engines and load the policy of a resumed run.

        Waits for the samplers that fit into the free resources, at least ``settings.min_samplers``. Raises ResourcesError,
        ModelError, SamplerError or DeadlineExceeded, and leaves nothing running then.
        """
        try:
            await wait_for_resources(
                "samplers",
                self._settings.bundle,
                self._settings.minimum,
                free_seconds=SETTLE_SECONDS,
                join_seconds=0.0,
                advice="Wait for what else runs there, add machines, or lower rollout.num_samplers (or min_samplers), "
                "rollout.cpus_per_sampler, rollout.gpus_per_sampler or the resources of graders and learner",
            )
            await self._autoscaler.start(await self._autoscaler.num_placeable())
            if policy is not None:
                await self.publish(policy)
        except (CaravanError, asyncio.CancelledError):
            self._autoscaler.stop()
            self._lifecycle.kill_all()
            raise

    async def scale(
        self, number: int | None = None, *, min_samplers: int | None = None, max_samplers: int | None = None
    ) -> str:
        """Change the number of samplers or the bounds; returns a line about the consequences.

        A number alone is kept until the next call; with a bound, the pool continues to scale by itself. Raises ConfigError for
        contradictions.
        """
        return await self._autoscaler.scale(number, min_samplers, max_samplers)

    async def sample_group(
        self, request: GroupRequest, started: Callable[[int], None] = lambda _version: None
    ) -> AsyncGenerator[Completion]:
        """Yield the ``G`` completions of a group, each as it ends; closing the iterator aborts the others.

        When a sampler dies or hangs, the completions that it did not return are sampled again on another one, under the same
        policy version. Raises GroupFailed when that fails too often, SamplerError or ModelError once no sampler is left.
        """
        self._check_fits(request)
        missing = set(range(request.group_size))
        replica = await self._dispatcher.take(len(missing))
        version = self._policies.acquire()
        num_failures = 0
        try:
            started(version)
            while missing:
                actor = replica.actor
                try:
                    async with aclosing(self._stream(replica, request, missing, version)) as completions:
                        async for completion in completions:
                            yield completion
                except (SamplerError, DeadlineExceeded) as error:
                    self._lifecycle.evict(replica, actor, error)
                    num_failures += 1
                    if num_failures > MAX_RERUNS:
                        raise GroupFailed(
                            f"group {request.group_id} failed on {num_failures} samplers, on the last "
                            f"one without other groups: {error}"
                        ) from error
                    replica = await self._dispatcher.take(len(missing), exclusive=num_failures == MAX_RERUNS)
        finally:
            self._policies.release(version)

    async def publish(self, policy: PolicyVersion) -> tuple[WeightSync, ...]:
        """Load a policy on every sampler and verify each; on return new groups are sampled under it.

        Does not wait for a sampler that is down or starting while another one is ready: it verifies the policy before it gets
        work. Raises ModelError when vLLM refuses the adapter or a new engine fails the verification too, SamplerError,
        ResourcesError.
        """
        await self._lifecycle.publish(policy)
        await self._dispatcher.until_ready()
        self._policies.promote(policy.number)
        return tuple(self._lifecycle.weight_syncs)

    async def base_gaps(self, probes: Sequence[ProbePrompt]) -> tuple[ProbeGap, ...]:
        """Compare the scores of the base model with the learner's; returns the gap of each probe prompt.

        The gaps are those of the sampler with the largest typical gap. Call this before any policy is published. Raises
        ModelError for a gap above what a base model may have, SamplerError or DeadlineExceeded when a sampler does not answer.
        """
        seconds = self._settings.publish_deadline_seconds
        by_sampler = await asyncio.gather(
            *(replica.base_gaps(probes, seconds) for replica in self._lifecycle.serving())
        )
        if not by_sampler:
            raise SamplerError("no sampler is left to score the base model")
        allowed = self._max_base_gap
        for gaps in by_sampler:
            if not (gap := typical_gap(gaps)) <= allowed:
                raise ModelError(
                    f"the sampler (vLLM) and the learner (transformers) disagree about model {self._model!r} by "
                    f"{gap:.2g} nats per token before any training, and {allowed:g} is allowed "
                    "(rollout.weight_sync_tolerance): this model cannot be trained until both compute the same; compare "
                    "rollout.dtype with learner.dtype, or take another model"
                )
        return max(by_sampler, key=typical_gap)

    def set_tolerance(self, nats: float) -> None:
        """Set the largest gap, in nats per token, with which later policies are verified."""
        self._lifecycle.tolerance = nats

    def usage(self) -> Usage:
        """Return the work of the samplers so far."""
        return self._lifecycle.usage()

    async def close(self) -> None:
        """Stop every engine and leave no process behind; may be called twice."""
        self._dispatcher.fail(SamplerError("the sampler pool is closed"))
        await self._autoscaler.close()
        await self._lifecycle.close()

    async def _stream(
        self, replica: SamplerReplica, request: GroupRequest, missing: set[int], version: int
    ) -> AsyncGenerator[Completion]:
        """Yield the missing completions of a group from one sampler, and remove each from ``missing``."""
        actor = replica.actor
        load = len(missing)
        call = f"group {request.group_id} on {replica.name}"
        try:
            stream = replica.stream(request, missing, version)
            try:
                while missing:
                    item = await next_result(
                        stream,
                        call,
                        death_error=SamplerError,
                        deadline_seconds=self._settings.request_deadline_seconds,
                        deadline_key="rollout.request_deadline_seconds",
                    )
                    for completion in unpacked(item):
                        missing.remove(completion.index)
                        load -= 1
                        self._dispatcher.release(replica)
                        yield completion
                    if replica.actor is actor:  # output of an actor that died meanwhile does not count
                        replica.num_crashes = 0
            finally:
                if missing:
                    ray.cancel(stream)
        finally:
            self._dispatcher.release(replica, load)

    def _check_fits(self, request: GroupRequest) -> None:
        """Raise SamplerError for sequences that are longer than the engine accepts."""
        wanted = len(request.prompt.token_ids) + request.sampling.max_completion_tokens
        limit = self._settings.max_prompt_tokens + self._settings.max_completion_tokens
        if wanted > limit:
            raise SamplerError(
                f"group {request.group_id} may take {wanted} tokens; the samplers were started for {limit} "
                "(rollout.max_prompt_tokens + rollout.max_completion_tokens)"
            )
