"""Samplers in Ray actors behind one interface: routing, streaming, publishing, and a new sampler for a dead one."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import ray
from ray.actor import ActorHandle

from cluster.types import CaravanError, Completion, GroupRequest, PolicyVersion, SamplerError
from rollout.actor import CONCURRENT_CALLS, SamplerActor
from rollout.calls import answer, next_answer
from rollout.policies import LivePolicies
from rollout.room import require_room
from rollout.routing import Router, Seat
from rollout.settings import RolloutSettings, check_lora_rank

logger = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 20.0
QUEUED_AHEAD = 1.25
"""Requests in an engine, as a multiple of those that it samples at a time, so that it never waits for the pool."""

MAX_RERUNS = 2
"""How many samplers may die under one group before it is taken for the cause."""


@dataclass(slots=True, eq=False)
class _Station(Seat):
    """A place for a sampler; when its actor dies, another one takes the place."""

    actor: ActorHandle | None = None
    has_delivered: bool = True  # since its actor was last replaced
    replacement: asyncio.Task[None] | None = None


class RaySamplerPool:
    """The SamplerPool of real runs: ``num_samplers`` vLLM engines, each in a Ray actor.

    Needs ``ray.init`` to have been called, and lives in one event loop.
    """

    def __init__(self, settings: RolloutSettings, *, model: str, lora_rank: int) -> None:
        """Remember what to start; raises ConfigError for a LoRA rank that vLLM cannot serve."""
        check_lora_rank(lora_rank)
        self._settings = settings
        self._model = model
        self._lora_rank = lora_rank
        self._stations = [_Station(name=f"sampler {index}") for index in range(settings.num_samplers)]
        self._router: Router[_Station] = Router(int(QUEUED_AHEAD * settings.max_concurrent_requests))
        self._policies: LivePolicies[ray.ObjectRef] = LivePolicies()
        self._publishing = asyncio.Lock()

    async def start(self, policy: PolicyVersion | None = None) -> None:
        """Start every engine and load the policy that a resumed run begins with.

        Raises ResourcesError, ModelError, SamplerError or DeadlineExceeded; nothing is left running then.
        """
        await require_room(self._settings)
        try:
            actors = [self._new_actor(station) for station in self._stations]
            await asyncio.gather(*map(self._start_engine, self._stations, actors))
            for station in self._stations:
                self._router.open(station)
            if policy is not None:
                await self.publish(policy)
        except (CaravanError, asyncio.CancelledError):
            self._kill_all()
            raise

    async def sample_group(self, request: GroupRequest) -> AsyncGenerator[Completion]:
        """Yield the ``G`` completions of a group, each as it ends; closing the iterator stops the others.

        When a sampler dies, what it had not handed over is sampled again elsewhere, under the same policy version.
        Raises SamplerError when that fails too, DeadlineExceeded when the next completion does not come in time.
        """
        self._check_fits(request)
        missing = set(range(request.group_size))
        station = await self._router.take(len(missing))
        version = self._policies.acquire()
        num_reruns = 0
        try:
            while missing:
                actor = station.actor
                assert actor is not None
                try:
                    async with aclosing(self._stream(station, actor, request, missing, version)) as completions:
                        async for completion in completions:
                            yield completion
                except SamplerError as error:
                    self._replace(station, actor, error)
                    if num_reruns == MAX_RERUNS:
                        raise SamplerError(
                            f"group {request.group_id} failed on {num_reruns + 1} samplers: {error}"
                        ) from error
                    num_reruns += 1
                    station = await self._router.take(len(missing))
        finally:
            self._policies.release(version)

    async def publish(self, policy: PolicyVersion) -> None:
        """Load a policy on every sampler; on return new groups are sampled under it, running ones finish on theirs.

        Raises ModelError where vLLM refuses the adapter, SamplerError, DeadlineExceeded.
        """
        async with self._publishing:
            if policy.number <= self._policies.current:
                raise SamplerError(f"policy {policy.number} comes after policy {self._policies.current} was published")
            # Once into the object store, from where every node fetches it; as an argument it would be copied per call.
            handle = await asyncio.to_thread(ray.put, policy)
            live = self._policies.add(policy.number, handle)
            open_stations = [station for station in self._stations if station.is_open]
            try:
                await asyncio.gather(*(self._load(station, handle, live) for station in open_stations))
            except CaravanError:
                self._policies.discard(policy.number)
                raise
        # One that died is replaced, and its successor loads everything live before it is given work.
        replacements = [station.replacement for station in self._stations if station.replacement is not None]
        if replacements:
            await asyncio.wait(replacements)
        self._router.raise_if_failed()
        self._policies.promote(policy.number)

    async def close(self) -> None:
        """Stop every engine and leave no process behind; may be called twice."""
        self._router.fail("the sampler pool is closed")
        actors = [station.actor for station in self._stations if station.actor is not None]
        await asyncio.gather(
            *(answer(actor.shutdown.remote(), "a sampler's shutdown", SHUTDOWN_SECONDS) for actor in actors),
            return_exceptions=True,  # a sampler that cannot shut down is killed all the same
        )
        self._kill_all()

    async def _stream(
        self, station: _Station, actor: ActorHandle, request: GroupRequest, missing: set[int], version: int
    ) -> AsyncGenerator[Completion]:
        """Yield the missing completions of a group from one sampler, and take each off ``missing``."""
        num_charged = len(missing)
        stream = actor.sample.options(num_returns="streaming").remote(request, sorted(missing), version)
        try:
            while missing:
                completion = await next_answer(
                    stream, f"group {request.group_id} on {station.name}", self._settings.request_deadline_seconds
                )
                missing.remove(completion.index)
                num_charged -= 1
                self._router.give_back(station, 1)
                station.has_delivered |= station.actor is actor  # what a dead one had sent off does not count
                yield completion
        finally:
            self._router.give_back(station, num_charged)
            if missing:
                ray.cancel(stream)

    async def _load(self, station: _Station, handle: ray.ObjectRef, live: frozenset[int]) -> None:
        actor = station.actor
        assert actor is not None
        try:
            call = f"publishing a policy to {station.name} (rollout.publish_deadline_seconds)"
            await answer(actor.load_policy.remote(handle, live), call, self._settings.publish_deadline_seconds)
        except SamplerError as error:
            self._replace(station, actor, error)

    def _new_actor(self, station: _Station) -> ActorHandle:
        station.actor = (
            ray.remote(SamplerActor)
            .options(
                num_cpus=self._settings.cpus_per_sampler,
                num_gpus=self._settings.gpus_per_sampler,
                max_concurrency=CONCURRENT_CALLS,
            )
            .remote(self._settings, self._model, self._lora_rank)
        )
        return station.actor

    async def _start_engine(self, station: _Station, actor: ActorHandle) -> None:
        call = f"starting {station.name} (rollout.start_deadline_seconds)"
        await answer(actor.start.remote(), call, self._settings.start_deadline_seconds)

    def _replace(self, station: _Station, actor: ActorHandle, error: SamplerError) -> None:
        """Begin to replace a dead actor, unless that was begun already or is no use."""
        if station.actor is not actor:
            return  # somebody else noticed first
        self._router.shut(station)
        if not station.has_delivered:
            self._router.fail(f"{station.name} died again before it had delivered anything: {error}")
            return
        logger.warning("%s died and is started again: %s", station.name, error)
        ray.kill(actor)
        station.has_delivered = False
        station.replacement = asyncio.create_task(self._restart(station, self._new_actor(station)))

    async def _restart(self, station: _Station, actor: ActorHandle) -> None:
        """Start an engine and bring it up to every live version before it is given work."""
        try:
            await self._start_engine(station, actor)
            async with self._publishing:
                handles = self._policies.handles()
                live = frozenset(version for version, _ in handles)
                for _, handle in handles:
                    call = f"loading a policy on {station.name} after its restart"
                    await answer(actor.load_policy.remote(handle, live), call, self._settings.publish_deadline_seconds)
                self._router.open(station)
        except CaravanError as error:
            self._router.fail(f"{station.name} died and could not be started again: {error}")

    def _kill_all(self) -> None:
        for station in self._stations:
            if station.replacement is not None:
                station.replacement.cancel()
            if station.actor is not None:
                ray.kill(station.actor)
                station.actor = None

    def _check_fits(self, request: GroupRequest) -> None:
        """Refuse what the engine would refuse: sequences longer than it was started for."""
        wanted = len(request.prompt.token_ids) + request.sampling.max_completion_tokens
        limit = self._settings.max_prompt_tokens + self._settings.max_completion_tokens
        if wanted > limit:
            raise SamplerError(
                f"group {request.group_id} may take {wanted} tokens; the samplers were started for {limit} "
                "(rollout.max_prompt_tokens + rollout.max_completion_tokens)"
            )
