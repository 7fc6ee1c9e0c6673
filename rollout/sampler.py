"""One engine that samples groups; it verifies every policy before it samples under it."""

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import ExitStack, aclosing

from cluster.actors.calls import packed, unpacked
from cluster.actors.gpus import exclusive_start
from cluster.errors import ModelError, SamplerError
from cluster.thought_tags import may_hold_thought
from cluster.types import Completion, GroupRequest, PolicyVersion, ProbeGap, ProbePrompt, VersionSpan
from rollout.adapter_cache import AdapterCache
from rollout.engine import Engine, Sampled
from rollout.environment import check_build
from rollout.settings import RolloutSettings
from rollout.weight_sync import Adapter, Verification, probe_gaps, verify
from rollout.weight_sync_modes import BASE_VERSION, WeightSyncMode, weight_sync_mode


class SampleStream(ABC):
    """The actor method that streams samples."""

    @abstractmethod
    def sample(
        self, request: GroupRequest, indexes: Sequence[int], policy_version: int
    ) -> AsyncGenerator[tuple[Completion, ...]]:
        """Yield the requested completions of a group as they end."""

    async def stream(self, call: bytes) -> AsyncGenerator[bytes]:
        """Yield the packed items of ``sample``; ``call`` is the packed tuple of its arguments."""
        async with aclosing(self.sample(*unpacked(call))) as items:
            async for item in items:
                yield packed(item)


class Sampler(SampleStream):
    """An engine and the policy versions that it can sample from; version 0 is the base model, or the initial adapter."""

    def __init__(
        self,
        settings: RolloutSettings,
        *,
        model: str,
        lora_rank: int,
        lora_targets: Sequence[str] = (),
        max_staleness: int,
        pool_id: str,
    ) -> None:
        self._settings = settings
        self._model = model
        self._lora_rank = lora_rank
        self._lora_targets = lora_targets  # names of modules; empty: every module that supports LoRA
        self._max_staleness = max_staleness
        self._pool_id = pool_id  # samplers of one pool share an adapter cache on each machine
        self._engine: Engine | None = None
        self._adapter_cache: AdapterCache | None = None
        self._mode: WeightSyncMode | None = None
        self._loaded_versions: set[int] = set()
        self._num_running: Counter[int] = Counter()  # requests in the engine, by the policy version that they name
        self._verified = asyncio.Event()  # cleared while the engine may serve a policy that is not verified yet
        self._probe_numbers = itertools.count()

    async def start(self) -> None:
        """Load the model and start the engine, after other parts that start on its GPUs.

        Raises ModelError with one line when that fails.
        """
        check_build(self._settings)
        with ExitStack() as start:
            if self._settings.gpus_per_sampler > 0:
                await asyncio.to_thread(start.enter_context, exclusive_start())
            # After the wait: the cache ends engines of killed samplers, also of one that was killed during the wait.
            self._adapter_cache = await asyncio.to_thread(AdapterCache, self._pool_id)
            start.enter_context(self._adapter_cache.recording_engine())
            self._engine = await Engine.start(
                self._settings,
                model=self._model,
                lora_rank=self._lora_rank,
                lora_targets=self._lora_targets,
                max_staleness=self._max_staleness,
                sockets=self._adapter_cache.path,
            )
        self._mode = weight_sync_mode(self._settings)(self._engine, self._adapter_cache, self._settings, self._model)
        self._verified.set()

    async def load_policy(
        self, policy: PolicyVersion, live_versions: Collection[int], tolerance: float
    ) -> Verification:
        """Load and verify a policy, then drop idle ones that are not among ``live_versions``.

        ``tolerance``: largest gap to the learner's log-probabilities, in nats per token. Raises ModelError when vLLM refuses the
        adapter, ResourcesError when the adapter cache is full, SamplerError when the engine died.
        """
        if self._adapter_cache is None or self._mode is None:
            raise _no_engine()
        # Chosen before the engine is called: its queue may still hold ended requests, ahead of the calls below.
        idle = [
            version
            for version in self._loaded_versions
            if version not in live_versions and not self._num_running[version]
        ]
        try:
            verification = await self._load_and_verify(self._mode, policy, tolerance)
        except ModelError:  # the engine still serves the previous policy
            if policy.number in self._adapter_cache:
                await asyncio.to_thread(self._adapter_cache.remove, policy.number)
            self._verified.set()
            raise
        self._loaded_versions.add(policy.number)
        for version in idle:
            self._loaded_versions.remove(version)
            await self._mode.drop(version)
        return verification

    async def base_gaps(self, probes: Sequence[ProbePrompt]) -> tuple[ProbeGap, ...]:
        """Compare the engine's scores of the base model with the learner's; later samples are unaffected.

        Call this before any policy is loaded.
        """
        scored = await self._score(probes, BASE_VERSION, None)
        await self._running_engine().reset_prefix_cache()
        return probe_gaps(probes, scored)

    async def sample(
        self, request: GroupRequest, indexes: Sequence[int], policy_version: int
    ) -> AsyncGenerator[tuple[Completion, ...]]:
        """Yield the requested completions of a group as they end; those that end at the same time come in one tuple.

        Closing the iterator aborts the others in the engine. Raises SamplerError when the engine died.
        """
        tasks = {asyncio.create_task(self._complete(request, index, policy_version)) for index in indexes}
        running = tasks
        try:
            while running:
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                yield tuple(task.result() for task in ended)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def shutdown(self) -> None:
        """Stop the engine and its processes and release the adapters; may be called twice."""
        engine, self._engine, self._mode = self._engine, None, None
        if engine is not None:
            await asyncio.to_thread(engine.shutdown)
        if self._adapter_cache is not None:
            await asyncio.to_thread(self._adapter_cache.close)

    async def _load_and_verify(self, mode: WeightSyncMode, policy: PolicyVersion, tolerance: float) -> Verification:
        if mode.updates_running:
            # Completions that end before the verification are returned after it, and never when it fails.
            self._verified.clear()
        bound = await mode.load(policy)
        scored = await self._score(policy.probes, policy.number, mode.adapter(policy.number))
        verification = verify(policy, bound, scored, tolerance)
        if verification.failure is None:
            self._verified.set()
        return verification

    async def _score(
        self, probes: Sequence[ProbePrompt], version: int, adapter: Adapter | None
    ) -> list[tuple[float, ...]]:
        """Score all probe prompts at once: they fit into one forward pass."""
        engine = self._running_engine()
        return await asyncio.gather(
            *(engine.score(probe, request_id=self._probe_request(version), adapter=adapter) for probe in probes)
        )

    async def _complete(self, request: GroupRequest, index: int, policy_version: int) -> Completion:
        """Sample one completion as a request of its own, so that it is returned without waiting for its group."""
        if self._mode is None:
            raise _no_engine()
        mode = self._mode
        adapter = mode.adapter(policy_version)
        self._num_running[policy_version] += 1
        try:
            sampled = await self._running_engine().sample(
                request.prompt.token_ids,
                request.sampling,
                seed=request.seed + index,
                request_id=f"{request.group_id}-c{index}",
                adapter=adapter,
                keeps_special_tokens=request.prompt.keeps_special_tokens,
            )
            await self._verified.wait()
        finally:
            self._num_running[policy_version] -= 1
        spans = mode.version_spans(sampled.spans, adapter, len(sampled.token_ids))
        return _completion(request, index, sampled, spans)

    def _running_engine(self) -> Engine:
        if self._engine is None:
            raise _no_engine()
        return self._engine

    def _probe_request(self, version: int) -> str:
        return f"probe-{version}-{next(self._probe_numbers)}"


def _no_engine() -> SamplerError:
    return SamplerError("the sampler has no engine: it was not started, or was shut down")


def _completion(request: GroupRequest, index: int, sampled: Sampled, spans: tuple[VersionSpan, ...]) -> Completion:
    opened_thought = request.prompt.opened_thought
    has_token_ends = bool(opened_thought) or may_hold_thought(sampled.text)
    return Completion(
        id=f"{request.group_id}-c{index}",
        group_id=request.group_id,
        problem_id=request.prompt.problem_id,
        index=index,
        prompt_ids=request.prompt.token_ids,
        token_ids=sampled.token_ids,
        sampler_logprobs=sampled.logprobs,
        text=sampled.text,
        finish_reason=sampled.finish_reason,
        policy_version=spans[-1].policy_version,
        version_spans=spans if len(spans) > 1 else (),
        seconds=sampled.seconds,
        temperature=request.sampling.temperature,
        opened_thought=opened_thought,
        token_ends=sampled.token_ends if has_token_ends else (),
    )
