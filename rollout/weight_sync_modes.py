"""The ways in which an engine changes over to a new policy; ``rollout.policy_swap`` chooses one.

======== ==================================== =============================== ==============================
         a running completion                 the engine                      what a policy costs there
======== ==================================== =============================== ==============================
versions ends on the policy it began with     holds one adapter per policy    loading an adapter; no pause
in_flight goes on under the new one           holds one adapter, exchanged    the same, and running
                                                                              completions are prefilled again
merged   goes on under the new one            has no LoRA: new weights        the whole model is written and
                                                                              loaded, and the same
======== ==================================== =============================== ==============================
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cluster.types import PolicyVersion
from rollout.adapter_cache import AdapterCache
from rollout.engine import Adapter, Engine
from rollout.settings import RolloutSettings
from rollout.weight_sync import BoundAdapter


class Serving(Protocol):
    """Brings policies into an engine, and drops them again."""

    async def take(self, policy: PolicyVersion) -> BoundAdapter:
        """Have the engine ready to sample under a policy, and say what it made of it; raises what Engine.load raises."""
        ...

    def adapter(self, version: int) -> Adapter | None:
        """What a request names that is to be sampled under a version; None where it names nothing."""
        ...

    async def drop(self, version: int) -> None:
        """Forget a policy that no request runs under."""
        ...


class Versions:
    """Every policy is an adapter of its own, under an id and a path that no other one ever has.

    The order matters: files, then adapter, then requests that name it, and backwards. A request that names an adapter
    whose files are gone kills the whole engine.
    """

    def __init__(self, engine: Engine, cache: AdapterCache) -> None:
        self._engine = engine
        self._adapter_cache = cache
        self._adapters: dict[int, Adapter] = {}

    async def take(self, policy: PolicyVersion) -> BoundAdapter:
        """Load the adapter beside the others."""
        adapter = await _cached(self._adapter_cache, policy, slot=policy.number)
        await self._engine.load(adapter)
        self._adapters[policy.number] = adapter
        return await self._engine.bound(adapter)

    def adapter(self, version: int) -> Adapter | None:
        """The adapter of just that version; none for the base model."""
        return self._adapters[version] if version else None

    async def drop(self, version: int) -> None:
        """Take the adapter out of the engine, then off the cache."""
        await self._engine.drop(self._adapters.pop(version))
        await asyncio.to_thread(self._adapter_cache.remove, version)


class InFlight:
    """One slot whose adapter is exchanged under the requests that name it.

    Requests that began before there was any adapter name none, and end on the base model.
    """

    SLOT = 1

    def __init__(self, engine: Engine, cache: AdapterCache) -> None:
        self._engine = engine
        self._adapter_cache = cache
        self._adapter: Adapter | None = None

    async def take(self, policy: PolicyVersion) -> BoundAdapter:
        """Exchange the adapter; running requests go on under it."""
        adapter = await _cached(self._adapter_cache, policy, slot=self.SLOT)
        async with self._engine.exchange(policy.number):
            await self._engine.load(adapter)
        self._adapter = adapter
        return await self._engine.bound(adapter)

    def adapter(self, version: int) -> Adapter | None:  # noqa: ARG002 - the engine has but one
        """The newest adapter, whichever version was asked for."""
        return self._adapter

    async def drop(self, version: int) -> None:
        """Take its files off the cache: the engine has let go of it at the exchange."""
        await asyncio.to_thread(self._adapter_cache.remove, version)


class Merged:
    """New weights for the whole engine, made once per machine from the base model and the adapter."""

    def __init__(self, engine: Engine, cache: AdapterCache, settings: RolloutSettings, model: str) -> None:
        self._engine = engine
        self._adapter_cache = cache
        self._settings = settings
        self._model = model

    async def take(self, policy: PolicyVersion) -> BoundAdapter:
        """Exchange the weights; running requests go on under them."""
        from rollout.merge import merged_modules, weights_folder, write_merged

        def write(folder: Path) -> None:
            write_merged(weights_folder(self._model), policy.adapter, folder, self._settings.served_dtype)

        folder = await asyncio.to_thread(self._adapter_cache.put, policy.number, write)
        async with self._engine.exchange(policy.number):
            await self._engine.reload(folder, policy.number)
        return merged_modules(policy.adapter)

    def adapter(self, version: int) -> Adapter | None:  # noqa: ARG002 - there are only weights
        """None: nothing needs to be named."""
        return None

    async def drop(self, version: int) -> None:
        """Take its files off the cache: the engine has its own copy."""
        await asyncio.to_thread(self._adapter_cache.remove, version)


def serving(settings: RolloutSettings, engine: Engine, cache: AdapterCache, model: str) -> Serving:
    """The way that ``rollout.policy_swap`` names."""
    if settings.policy_swap == "versions":
        return Versions(engine, cache)
    if settings.policy_swap == "in_flight":
        return InFlight(engine, cache)
    return Merged(engine, cache, settings, model)


async def _cached(cache: AdapterCache, policy: PolicyVersion, *, slot: int) -> Adapter:
    def write(folder: Path) -> None:
        write_files(folder, policy.adapter)

    return Adapter(version=policy.number, slot=slot, folder=await asyncio.to_thread(cache.put, policy.number, write))


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write an adapter's files into a folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
