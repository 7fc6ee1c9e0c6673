"""One engine that samples groups, and proves of every policy that it serves it before it samples under it."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Sequence

from cluster.errors import ModelError, SamplerError
from cluster.types import Completion, GroupRequest, PolicyVersion, ProbePrompt, VersionSpan
from rollout.adapter_cache import AdapterCache
from rollout.engine import BASE_VERSION, Engine, Sampled
from rollout.settings import RolloutSettings, check_lora_rank
from rollout.weight_sync import Verification, verify, verify_base_model
from rollout.weight_sync_modes import Serving, serving


class Sampler:
    """An engine and the policy versions that it can sample from; version 0 is the base model."""

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
        check_lora_rank(lora_rank)
        self._settings = settings
        self._model = model
        self._lora_rank = lora_rank
        self._lora_targets = lora_targets  # names of modules; none: whatever can carry an adapter may
        self._max_staleness = max_staleness
        self._pool_id = pool_id  # samplers of one pool share adapters where they share a machine
        self._engine: Engine | None = None
        self._adapter_cache: AdapterCache | None = None
        self._serving: Serving | None = None
        self._versions: set[int] = set()  # that are loaded
        self._num_running: Counter[int] = Counter()  # requests in the engine, by the policy version they were asked for
        self._proved = asyncio.Event()  # not set while the engine may serve what it has not proved yet
        self._probe_ids = itertools.count()

    async def start(self) -> None:
        """Load the model and start the engine; raises ModelError with one line where that fails."""
        self._adapter_cache = await asyncio.to_thread(AdapterCache, self._pool_id)
        with self._adapter_cache.recording_engine():
            self._engine = await Engine.start(
                self._settings,
                model=self._model,
                lora_rank=self._lora_rank,
                lora_targets=self._lora_targets,
                max_staleness=self._max_staleness,
                sockets=self._adapter_cache.path,
            )
        self._serving = serving(self._settings, self._engine, self._adapter_cache, self._model)
        self._proved.set()

    async def load_policy(self, policy: PolicyVersion, live_versions: Collection[int]) -> Verification:
        """Take a policy and say how well it is served, then drop idle ones that are not among ``live_versions``.

        Raises ModelError where vLLM refuses the adapter, ResourcesError where it finds no room, SamplerError where the
        engine died.
        """
        if self._adapter_cache is None or self._serving is None:
            raise _no_engine()
        # Chosen before the engine is spoken to: an ended request may still be in its queue, ahead of what follows.
        idle = [
            version for version in self._versions if version not in live_versions and not self._num_running[version]
        ]
        try:
            verification = await self._take(self._serving, policy)
        except ModelError:  # the engine serves what it served before
            if policy.number in self._adapter_cache:
                await asyncio.to_thread(self._adapter_cache.remove, policy.number)
            self._proved.set()
            raise
        self._versions.add(policy.number)
        for version in idle:
            self._versions.remove(version)
            await self._serving.drop(version)
        return verification

    async def verify_base_model(self, probe: ProbePrompt) -> Verification:
        """Say how well the base model is served, by the learner's score of it; what is sampled later does not change by it."""
        engine = self._started()
        logprobs = await engine.score(probe, request_id=f"probe-{BASE_VERSION}-{next(self._probe_ids)}", adapter=None)
        await engine.forget_prompts()
        return verify_base_model(probe, logprobs, self._settings)

    async def sample(
        self, request: GroupRequest, indexes: Sequence[int], policy_version: int
    ) -> AsyncGenerator[tuple[Completion, ...]]:
        """Yield the completions of a group that are asked for as they end, those together that end together.

        Closing the iterator takes the others out of the engine. Raises SamplerError where the engine died.
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
        """Stop the engine and its processes and let go of the adapters; may be called twice."""
        engine, self._engine, self._serving = self._engine, None, None
        if engine is not None:
            await asyncio.to_thread(engine.shutdown)
        if self._adapter_cache is not None:
            await asyncio.to_thread(self._adapter_cache.close)

    async def _take(self, way: Serving, policy: PolicyVersion) -> Verification:
        if self._settings.policy_swap != "versions":
            # What ends between exchange and proof is handed over after the proof, and never where it fails.
            self._proved.clear()
        bound = await way.take(policy)
        logprobs = None
        if policy.probe is not None:
            logprobs = await self._started().score(
                policy.probe,
                request_id=f"probe-{policy.number}-{next(self._probe_ids)}",
                adapter=way.adapter(policy.number),
            )
        verification = verify(policy, bound, logprobs, self._settings)
        if verification.failure is None:
            self._proved.set()
        return verification

    async def _complete(self, request: GroupRequest, index: int, policy_version: int) -> Completion:
        """Sample one completion: a request of its own, so that it is handed over without waiting for its group."""
        if self._serving is None:
            raise _no_engine()
        adapter = self._serving.adapter(policy_version)
        self._num_running[policy_version] += 1
        try:
            sampled = await self._started().sample(
                request.prompt.token_ids,
                request.sampling,
                seed=request.seed + index,
                request_id=f"{request.group_id}-c{index}",
                adapter=adapter,
                keeps_special_tokens=request.prompt.keeps_special_tokens,
            )
            await self._proved.wait()
        finally:
            self._num_running[policy_version] -= 1
        spans = sampled.spans
        if self._settings.policy_swap == "versions" or (self._settings.policy_swap == "in_flight" and adapter is None):
            # vLLM's labels follow the newest policy; this request's own adapter stayed under it.
            version = BASE_VERSION if adapter is None else adapter.version
            spans = (VersionSpan(policy_version=version, num_tokens=len(sampled.token_ids)),)
        return _completion(request, index, sampled, spans)

    def _started(self) -> Engine:
        if self._engine is None:
            raise _no_engine()
        return self._engine


def _no_engine() -> SamplerError:
    return SamplerError("the sampler has no engine: it was not started, or was shut down")


def _completion(request: GroupRequest, index: int, sampled: Sampled, spans: tuple[VersionSpan, ...]) -> Completion:
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
        opened_thought=request.prompt.opened_thought,
    )
