"""Samplers in Ray actors behind one interface: routing, streaming, publishing, and a new sampler for a dead one."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from uuid import uuid4

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from cluster.types import (
    CaravanError,
    Completion,
    DeadlineExceeded,
    GroupFailed,
    GroupRequest,
    ModelError,
    PolicyVersion,
    SamplerError,
    Swap,
    Usage,
)
from rollout.calls import next_answer
from rollout.policies import LivePolicies
from rollout.room import require_room
from rollout.routing import Router
from rollout.settings import RolloutSettings, check_lora_rank
from rollout.station import SamplerPlan, Station

logger = logging.getLogger(__name__)

QUEUED_AHEAD = 1.25
"""Requests in an engine, as a multiple of those that it samples at a time, so that it never waits for the pool."""

MAX_RERUNS = 2
"""How often a group is sampled again after its sampler died; the last time it runs alone, so that no other is blamed."""

MAX_BARREN = 2 * (MAX_RERUNS + 1)
"""Samplers that may die at one place without having handed over anything: as many as two such groups can kill."""

MAX_STARTS = 3
"""Starts that may fail one after another while no other sampler is open."""

BACK_OFF_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Wait before a start, by how many failed before it; the last one is for all further ones."""


class RaySamplerPool:
    """The SamplerPool of real runs: ``num_samplers`` vLLM engines, each in a Ray actor.

    Needs ``ray.init`` to have been called, and lives in one event loop.
    """

    def __init__(self, settings: RolloutSettings, *, model: str, lora_rank: int, max_staleness: int = 0) -> None:
        """Remember what to start; raises ConfigError for a LoRA rank that vLLM cannot serve.

        ``max_staleness`` says how many policies beside the current one groups may be under way with.
        """
        check_lora_rank(lora_rank)
        self._settings = settings
        self._plan = SamplerPlan(
            settings=settings, model=model, lora_rank=lora_rank, max_staleness=max_staleness, pool_id=uuid4().hex
        )
        self._stations = [Station(name=f"sampler {index}") for index in range(settings.num_samplers)]
        self._router: Router[Station] = Router(int(QUEUED_AHEAD * settings.max_concurrent_requests))
        self._policies: LivePolicies[ray.ObjectRef] = LivePolicies()
        self._swaps: list[Swap] = []  # to the newest policy
        self._publishing = asyncio.Lock()

    async def start(self, policy: PolicyVersion | None = None) -> None:
        """Start every engine and load the policy that a resumed run begins with.

        Raises ResourcesError, ModelError, SamplerError or DeadlineExceeded; nothing is left running then.
        """
        await require_room(self._settings)
        try:
            await asyncio.gather(*(station.start(self._plan) for station in self._stations))
            for station in self._stations:
                self._router.open(station)
            if policy is not None:
                await self.publish(policy)
        except (CaravanError, asyncio.CancelledError):
            self._kill_all()
            raise

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
                    self._replace(station, actor, error)
                    num_deaths += 1
                    if num_deaths > MAX_RERUNS:
                        raise GroupFailed(
                            f"group {request.group_id} failed on {num_deaths} samplers, the last time alone: {error}"
                        ) from error
                    station = await self._seat(missing, alone=num_deaths == MAX_RERUNS)
        finally:
            self._policies.release(version)

    async def publish(self, policy: PolicyVersion) -> tuple[Swap, ...]:
        """Load a policy on every sampler and have each prove it; on return new groups are sampled under it.

        A sampler that is down is not waited for while another one is open: it takes the policy before it is given work.
        Raises ModelError where vLLM refuses the adapter or a sampler cannot prove it, SamplerError, ResourcesError.
        """
        async with self._publishing:
            if policy.number <= self._policies.current:
                raise SamplerError(f"policy {policy.number} comes after policy {self._policies.current} was published")
            # Once into the object store, from where every node fetches it; as an argument it would be copied per call.
            handle = await asyncio.to_thread(ray.put, policy)
            live = self._policies.add(policy.number, handle)
            self._swaps = []
            open_stations = [station for station in self._stations if station.is_open]
            swaps = (self._swap(station, handle, live) for station in open_stations)
            refusals = [error for error in await asyncio.gather(*swaps, return_exceptions=True) if error is not None]
            if refusals:
                self._policies.discard(policy.number)
                raise refusals[0]
        await self._router.until_open()
        self._policies.promote(policy.number)
        return tuple(self._swaps)

    def usage(self) -> Usage:
        """What the samplers did so far."""
        return self._router.usage()

    async def close(self) -> None:
        """Stop every engine and leave no process behind; may be called twice."""
        self._router.fail(SamplerError("the sampler pool is closed"))
        self._stop_replacing()
        # A sampler that cannot shut down is killed all the same.
        await asyncio.gather(*(station.shutdown() for station in self._stations), return_exceptions=True)
        self._kill_all()

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
                    for completion in await next_answer(stream, call, self._settings.request_deadline_seconds):
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

    async def _swap(self, station: Station, handle: ray.ObjectRef, live: frozenset[int]) -> None:
        """Bring an open sampler to a policy, or begin to replace it."""
        actor = station.actor
        try:
            swap, attestation = await station.load(handle, live, self._settings.publish_deadline_seconds)
        except (SamplerError, DeadlineExceeded) as error:
            self._replace(station, actor, error)
            return
        if attestation.failure is None:
            station.num_unproved = 0
            self._swaps.append(swap)
        else:
            station.num_unproved += 1
            self._replace(station, actor, SamplerError(f"it {attestation.failure}"))

    def _replace(self, station: Station, actor: ActorHandle | None, error: CaravanError) -> None:
        """Begin to replace a dead actor, unless that was begun already or is no use."""
        if actor is None or station.actor is not actor:
            return  # somebody else noticed first
        self._router.shut(station)
        station.kill()
        station.num_barren += 1
        if station.num_barren >= MAX_BARREN and not self._router.num_open:
            self._router.fail(
                SamplerError(
                    f"{station.num_barren} engines of {station.name} died one after another without handing over "
                    f"anything, and no other sampler is left; the last one: {error}"
                )
            )
            return
        logger.warning("%s is started again: %s", station.name, error)
        station.replacement = asyncio.create_task(self._restart(station))

    async def _restart(self, station: Station) -> None:
        """Start engines until one serves every live policy, and give it work; give up where nothing else is left."""
        begin = time.monotonic()
        num_failed = 0
        while True:
            await asyncio.sleep(_back_off(max(station.num_barren - 1, num_failed)))
            try:
                await station.start(self._plan)
                async with self._publishing:
                    failure = await self._catch_up(station)
                    if failure is None:
                        station.num_unproved = 0
                        self._router.open(station)
                        return
            except (CaravanError, RayError) as error:
                failure = str(error)
                num_failed += 1
                if num_failed == 1:
                    logger.warning("%s cannot be started, and is tried again: %s", station.name, error)
            else:
                station.num_unproved += 1
                if station.num_unproved > 1:
                    self._router.fail(_unproved(station, failure))
            station.kill()
            seconds = time.monotonic() - begin
            is_late = num_failed >= MAX_STARTS or seconds >= self._settings.start_deadline_seconds
            if is_late and not self._router.num_open:
                self._router.fail(
                    SamplerError(
                        f"no sampler is left: {station.name} was started {num_failed} times in {seconds:.0f} s, and "
                        f"the last start failed with: {failure}"
                    )
                )
            if self._router.has_failed:
                return

    async def _catch_up(self, station: Station) -> str | None:
        """Bring a fresh engine to every live policy; return how it failed to prove one, None where it did not."""
        handles = self._policies.handles()
        live = frozenset(version for version, _ in handles)
        # An engine that exchanges its weights serves one policy.
        for version, handle in handles if self._settings.policy_swap == "versions" else handles[-1:]:
            swap, attestation = await station.load(handle, live, self._settings.publish_deadline_seconds)
            if attestation.failure is not None:
                return attestation.failure
            if version == max(live):
                self._swaps.append(swap)
        return None

    def _stop_replacing(self) -> None:
        for station in self._stations:
            if station.replacement is not None:
                station.replacement.cancel()

    def _kill_all(self) -> None:
        self._stop_replacing()
        for station in self._stations:
            station.kill()

    def _check_fits(self, request: GroupRequest) -> None:
        """Refuse what the engine would refuse: sequences longer than it was started for."""
        wanted = len(request.prompt.token_ids) + request.sampling.max_completion_tokens
        limit = self._settings.max_prompt_tokens + self._settings.max_completion_tokens
        if wanted > limit:
            raise SamplerError(
                f"group {request.group_id} may take {wanted} tokens; the samplers were started for {limit} "
                "(rollout.max_prompt_tokens + rollout.max_completion_tokens)"
            )


def _back_off(num_failed: int) -> float:
    return BACK_OFF_SECONDS[min(num_failed, len(BACK_OFF_SECONDS) - 1)]


def _unproved(station: Station, failure: str) -> ModelError:
    return ModelError(
        f"{station.name} {failure}. A fresh engine failed like the one before it; going on would train on samples of "
        "another policy. Compare model, dtype and LoRA targets of learner and samplers, then resume the run"
    )
