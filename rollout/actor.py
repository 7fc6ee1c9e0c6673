"""The Ray actor around one sampler."""

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing

from cluster.types import Completion, GroupRequest, PolicyVersion, ProbePrompt
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from rollout.weight_sync import Verification

CONCURRENT_CALLS = 10_000
"""Calls that an actor may hold at a time; what bounds the work is the pool's ``max_concurrent_requests``."""


class SamplerActor:
    """A sampler in a process of its own. All calls share one event loop, the one that the engine lives in."""

    def __init__(
        self,
        settings: RolloutSettings,
        *,
        model: str,
        lora_rank: int,
        lora_targets: Sequence[str],
        max_staleness: int,
        pool_id: str,
    ) -> None:
        self._sampler = Sampler(
            settings,
            model=model,
            lora_rank=lora_rank,
            lora_targets=lora_targets,
            max_staleness=max_staleness,
            pool_id=pool_id,
        )

    async def start(self) -> None:
        """Start the engine; see Sampler.start."""
        await self._sampler.start()

    async def load_policy(self, policy: PolicyVersion, live_versions: Collection[int]) -> Verification:
        """Take a policy and drop idle ones; see Sampler.load_policy."""
        return await self._sampler.load_policy(policy, live_versions)

    async def verify_base_model(self, probe: ProbePrompt) -> Verification:
        """Say how well the base model is served; see Sampler.verify_base_model."""
        return await self._sampler.verify_base_model(probe)

    async def sample(
        self, request: GroupRequest, indexes: Sequence[int], policy_version: int
    ) -> AsyncGenerator[tuple[Completion, ...]]:
        """Stream completions as they end; see Sampler.sample."""
        async with aclosing(self._sampler.sample(request, indexes, policy_version)) as ended:
            async for completions in ended:
                yield completions

    async def shutdown(self) -> None:
        """Stop the engine; see Sampler.shutdown."""
        await self._sampler.shutdown()
