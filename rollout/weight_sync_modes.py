"""Weight sync modes: how an engine changes to a new policy. ``rollout.weight_sync_mode`` selects one.

========= ==================================== ============================== ==================================
mode      a running completion                 the engine                     cost of a policy for the engine
========= ==================================== ============================== ==================================
versions  ends on the policy it started with   holds one adapter per policy   load an adapter; no pause
in_flight continues under the new policy       holds one adapter, replaced    the same, and running completions
                                                                              are prefilled again
merged    continues under the new policy       has no LoRA: whole weights     write and load the whole model, and
                                               are replaced                   prefill running completions again
full      continues under the new policy       has no LoRA: whole weights     the same; the weights were all trained
                                               are replaced                   (learner.method=full)
========= ==================================== ============================== ==================================

Each mode is one class: its class attributes and class methods answer before an engine exists, an instance serves one engine.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from cluster.errors import ModelError
from cluster.types import PolicyVersion, VersionSpan
from rollout.adapter_cache import AdapterCache
from rollout.settings import RolloutSettings, max_lora_rank
from rollout.weight_sync import Adapter, BoundAdapter

T = TypeVar("T")

BASE_VERSION = 0

MAX_ADAPTERS = 9
"""Adapters in one forward pass at most: each takes its size of the accelerator's memory, used or not. Completions under older
policies are not lost: vLLM queues them until a slot is free."""


class PolicyEngine(Protocol):
    """The calls of rollout.engine.Engine that change its policies; see there for errors."""

    async def load(self, adapter: Adapter) -> None:
        """Load an adapter into its slot."""
        ...

    async def drop(self, adapter: Adapter) -> None:
        """Remove an adapter."""
        ...

    async def bound(self, adapter: Adapter) -> BoundAdapter:
        """Return the bound modules of a loaded adapter."""
        ...

    async def reload(self, folder: Path, version: int) -> None:
        """Replace the weights of the model."""
        ...

    async def transfer(self, folder: Path, version: int) -> dict[str, int]:
        """Replace the weights of the model, and return the checksum of what each layer loaded."""
        ...

    def exchange(self, version: int) -> AbstractAsyncContextManager[None]:
        """Pause all requests while the block replaces their weights."""
        ...


class WeightSyncMode(ABC):
    """Loads policies into one engine and removes them."""

    uses_lora: ClassVar[bool] = True  # the engine is started with LoRA
    updates_running: ClassVar[bool] = True  # running completions continue under a new policy

    def __init__(self, engine: PolicyEngine, cache: AdapterCache, settings: RolloutSettings, model: str) -> None:
        self._engine = engine
        self._cache = cache
        self._settings = settings
        self._model = model

    @classmethod
    def engine_arguments(
        cls, *, lora_rank: int, lora_targets: Sequence[str], max_staleness: int, on_cpu: bool
    ) -> dict[str, Any]:
        """Arguments of vLLM's ``AsyncEngineArgs`` for this mode; no ``lora_targets``: every layer that supports LoRA has it."""
        num_adapters = cls._num_adapters(max_staleness)
        arguments: dict[str, Any] = {
            "worker_extension_cls": "rollout.worker_extension.WorkerExtension",
            "enable_lora": True,
            "max_lora_rank": max_lora_rank(lora_rank),
            # One slot stays empty on the CPU, whose kernels apply the last one to requests without an adapter. CUDA graphs are
            # captured for as many adapters as there are slots.
            "max_loras": min(num_adapters, MAX_ADAPTERS) + on_cpu,
            "max_cpu_loras": num_adapters + 1,
        }
        if lora_targets:
            # A layer with LoRA costs memory and time even when no adapter uses it; on the CPU, experts have none.
            arguments["lora_target_modules"] = sorted({target.rpartition(".")[2] for target in lora_targets})
        return arguments

    @classmethod  # noqa: B027 - LoRA serves every model
    def check_model(cls, model: str, transposed_targets: Sequence[str]) -> None:
        """Raise ModelError for a model whose adapter this mode cannot serve.

        ``transposed_targets``: adapter targets whose weights are stored as ``[in, out]``.
        """

    @classmethod
    def policies_to_load(cls, live: Sequence[T]) -> Sequence[T]:
        """Return the live policies, oldest first, that a newly started engine has to load: the newest."""
        return live[-1:]

    @classmethod
    def _num_adapters(cls, max_staleness: int) -> int:  # noqa: ARG003 - one mode needs it
        return 1

    @abstractmethod
    async def load(self, policy: PolicyVersion) -> BoundAdapter:
        """Make the engine ready to sample under a policy and return the bound modules; raises the errors of Engine.load."""

    @abstractmethod
    def adapter(self, version: int) -> Adapter | None:
        """Return the adapter that a request for this version names; None for a request without an adapter."""

    async def drop(self, version: int) -> None:
        """Remove a policy that no request uses."""
        await asyncio.to_thread(self._cache.remove, version)

    def version_spans(
        self,
        engine_spans: tuple[VersionSpan, ...],
        adapter: Adapter | None,  # noqa: ARG002 - two modes need it
        num_tokens: int,  # noqa: ARG002
    ) -> tuple[VersionSpan, ...]:
        """Return which policy sampled which tokens of a completion, from the engine's labels and the request's adapter."""
        return engine_spans

    async def _write_adapter(self, policy: PolicyVersion, *, slot: int) -> Adapter:
        folder = await asyncio.to_thread(
            self._cache.put, policy.number, lambda folder: write_files(folder, policy.adapter)
        )
        return Adapter(version=policy.number, slot=slot, folder=folder)


class Versions(WeightSyncMode):
    """Mode with a separate adapter for each policy, under an id and a path that are never used again.

    The order matters: files, then adapter, then requests that name it; the reverse for removal. A request that names an adapter
    without files kills the whole engine.
    """

    updates_running = False

    def __init__(self, engine: PolicyEngine, cache: AdapterCache, settings: RolloutSettings, model: str) -> None:
        super().__init__(engine, cache, settings, model)
        self._adapters: dict[int, Adapter] = {}

    @classmethod
    def policies_to_load(cls, live: Sequence[T]) -> Sequence[T]:
        """Return all live policies: groups that are sampled again need the older ones."""
        return live

    @classmethod
    def _num_adapters(cls, max_staleness: int) -> int:
        # Groups run under at most max_staleness + 1 policies, and the next policy is verified next to them.
        return max_staleness + 2

    async def load(self, policy: PolicyVersion) -> BoundAdapter:
        """Load the adapter next to the others."""
        adapter = await self._write_adapter(policy, slot=policy.number + 1)  # vLLM's ids start at 1
        await self._engine.load(adapter)
        self._adapters[policy.number] = adapter
        return await self._engine.bound(adapter)

    def adapter(self, version: int) -> Adapter | None:
        """Return the adapter of exactly this version; None for the base model, which version 0 is without an initial adapter."""
        return self._adapters.get(version) if version == BASE_VERSION else self._adapters[version]

    async def drop(self, version: int) -> None:
        """Remove the adapter from the engine, then from the cache."""
        await self._engine.drop(self._adapters.pop(version))
        await super().drop(version)

    def version_spans(
        self,
        engine_spans: tuple[VersionSpan, ...],  # noqa: ARG002 - they name the engine's newest policy
        adapter: Adapter | None,
        num_tokens: int,
    ) -> tuple[VersionSpan, ...]:
        """Return one span: the request kept its adapter."""
        return (_span_of(adapter, num_tokens),)


class InFlight(WeightSyncMode):
    """One slot, whose adapter is replaced under the requests that name it.

    Requests from before the first adapter name none, and end on the base model.
    """

    SLOT = 1

    def __init__(self, engine: PolicyEngine, cache: AdapterCache, settings: RolloutSettings, model: str) -> None:
        super().__init__(engine, cache, settings, model)
        self._adapter: Adapter | None = None

    async def load(self, policy: PolicyVersion) -> BoundAdapter:
        """Replace the adapter; running requests continue under it, and the engine drops the old one."""
        adapter = await self._write_adapter(policy, slot=self.SLOT)
        async with self._engine.exchange(policy.number):
            await self._engine.load(adapter)
        self._adapter = adapter
        return await self._engine.bound(adapter)

    def adapter(self, version: int) -> Adapter | None:  # noqa: ARG002 - the engine has only one
        """Return the newest adapter, for every version."""
        return self._adapter

    def version_spans(
        self, engine_spans: tuple[VersionSpan, ...], adapter: Adapter | None, num_tokens: int
    ) -> tuple[VersionSpan, ...]:
        """Return the engine's spans; one span of the base model for a request without an adapter."""
        return engine_spans if adapter is not None else (_span_of(None, num_tokens),)


class Merged(WeightSyncMode):
    """New weights for the whole engine, written once per machine from the base model and the adapter."""

    uses_lora = False
    _has_loaded = False

    @classmethod
    def engine_arguments(
        cls,
        *,
        lora_rank: int,  # noqa: ARG003
        lora_targets: Sequence[str],  # noqa: ARG003
        max_staleness: int,  # noqa: ARG003
        on_cpu: bool,  # noqa: ARG003
    ) -> dict[str, Any]:
        """Return nothing: the engine serves plain weights."""
        return {}

    @classmethod
    def check_model(cls, model: str, transposed_targets: Sequence[str]) -> None:
        """Raise ModelError for transposed weights, to which no adapter is added."""
        if transposed_targets:
            raise ModelError(
                f"model.path={model} stores the weights of {', '.join(transposed_targets)} transposed, and "
                "rollout.weight_sync_mode=merged adds adapters to plain ones only: use versions or in_flight where vLLM has LoRA "
                "for this model, or another model"
            )

    async def load(self, policy: PolicyVersion) -> BoundAdapter:
        """Replace the weights; running requests continue under them.

        Raises ResourcesError, before the first policy is written, if its files and those of the next one do not fit.
        """
        from rollout.merge import merged_modules, require_space, weights_folder, write_merged

        def write(folder: Path) -> None:
            base, dtype = weights_folder(self._model), self._settings.served_dtype
            require_space(base, folder, dtype, num_versions=1 if self._has_loaded else 2)
            write_merged(base, policy.adapter, folder, dtype)

        folder = await asyncio.to_thread(self._cache.put, policy.number, write)
        async with self._engine.exchange(policy.number):
            await self._engine.reload(folder, policy.number)
        self._has_loaded = True
        return merged_modules(policy.adapter)

    def adapter(self, version: int) -> Adapter | None:  # noqa: ARG002 - there are only weights
        """Return None: no request names an adapter."""
        return None


class Full(Merged):
    """New weights for the whole engine, all of which were trained; written once per machine."""

    @classmethod
    def engine_arguments(
        cls,
        *,
        lora_rank: int,  # noqa: ARG003
        lora_targets: Sequence[str],  # noqa: ARG003
        max_staleness: int,  # noqa: ARG003
        on_cpu: bool,  # noqa: ARG003
    ) -> dict[str, Any]:
        """Return the arguments for vLLM's weight-transfer API."""
        return {
            "worker_extension_cls": "rollout.worker_extension.FullWorkerExtension",
            "weight_transfer_config": {"backend": "shared_memory"},  # rollout.weight_transfer
        }

    async def load(self, policy: PolicyVersion) -> BoundAdapter:
        """Replace the weights; running requests continue under them, and the layers are the modules that are verified.

        Raises ResourcesError, before the first policy is written, if its files and those of the next one do not fit.
        """
        from rollout.merge import require_bytes

        def write(folder: Path) -> None:
            size = sum(map(len, policy.adapter.values()))
            require_bytes(folder, size, num_versions=1 if self._has_loaded else 2)
            write_files(folder, policy.adapter)

        folder = await asyncio.to_thread(self._cache.put, policy.number, write)
        async with self._engine.exchange(policy.number):
            sums = await self._engine.transfer(folder, policy.number)
        self._has_loaded = True
        published = policy.weight_sums
        return BoundAdapter(
            named=tuple(published),
            bound=tuple(sums),
            differing=tuple(layer for layer in sums if layer in published and sums[layer] != published[layer]),
        )


MODES: dict[str, type[WeightSyncMode]] = {
    "versions": Versions,
    "in_flight": InFlight,
    "merged": Merged,
    "full": Full,
}


def weight_sync_mode(settings: RolloutSettings) -> type[WeightSyncMode]:
    """Return the mode that ``rollout.weight_sync_mode`` names or, if it is ``auto``, that suits the samplers."""
    return MODES[settings.chosen_sync_mode]


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of an adapter into a folder."""
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _span_of(adapter: Adapter | None, num_tokens: int) -> VersionSpan:
    return VersionSpan(policy_version=BASE_VERSION if adapter is None else adapter.version, num_tokens=num_tokens)
