"""GPU acceptance suite: samplers and learner on one GPU, placed as a run places them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.learner_contestants import make_groups
from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.placement.plan.machines import this_machine
from cluster.placement.plan.model_shape import shape_of
from cluster.placement.plan.sharing import with_kv_cache
from cluster.placement.ray_cluster import place
from cluster.types import Completion, GroupRequest, Prompt, Sampling
from learner.client import RayLearner
from learner.plan import LearnerPlan
from rollout.pool import RaySamplerPool
from tests.gpu.conftest import Report
from tests.gpu.samplers import engine_processes, targets_of
from tests.rollout.conftest import RunInLoop
from tests.rollout.test_pool import inside

pytestmark = pytest.mark.slow

PROMPT = tuple(range(40, 72))
NUM_STARTS, NUM_STARTS_CPU = 5, 1


@dataclass(frozen=True, slots=True)
class Parts:
    """Samplers and a learner that run."""

    config: Config
    pool: RaySamplerPool
    learner: RayLearner


def config_for(model: Path, num_samplers: int) -> Config:
    """A run of samplers and a learner, placed on this machine."""
    import ray

    words = [
        f"model.path={model}",
        f"num_samplers={num_samplers}",
        "num_graders=1",
        "max_prompt_tokens=256",
        "max_completion_tokens=256",
        "enforce_eager=true",
        "kv_cache_gib=0.25",
        "micro_batch_tokens=2048",
        "lora.r=8",
        "cpus_per_sampler=0.5",
        "learner.cpus=0.5",
        "max_staleness=8",
    ]
    resources = ray.cluster_resources()
    config = place(load_config(None, words, environment={}), resources, num_machines=1)
    gpu = this_machine().gpu
    return with_kv_cache(config, shape_of(str(model)), gpu.gib) if gpu is not None and gpu.gib is not None else config


def pool_of(config: Config) -> RaySamplerPool:
    return RaySamplerPool(
        config.rollout,
        model=str(config.model.path),
        lora_rank=config.learner.lora.r,
        lora_targets=targets_of(str(config.model.path)),
        max_staleness=8,
    )


@asynccontextmanager
async def started(config: Config, folder: Path) -> AsyncIterator[Parts]:
    """Start samplers and learner at the same time, and close them after the block."""
    plan = LearnerPlan(
        model=str(config.model.path),
        temperature=1.0,
        max_completion_tokens=256,
        max_staleness=1000,
        max_steps=100,
        seed=0,
        checkpoints_dir=folder,
        probe_ids=(PROMPT,),
    )
    parts = Parts(config, pool_of(config), RayLearner(config.learner, plan))
    try:
        await asyncio.gather(parts.pool.start(), parts.learner.start())
        yield parts
    finally:
        await parts.learner.close()
        await parts.pool.close()


async def sample(parts: Parts, number: int, *, num_tokens: int = 32) -> list[Completion]:
    request = GroupRequest(
        group_id=f"g{number}",
        prompt=Prompt(problem_id="p", text="", token_ids=PROMPT),
        group_size=4,
        sampling=Sampling(temperature=1.0, max_completion_tokens=num_tokens, stop=()),
        seed=number,
    )
    return [completion async for completion in parts.pool.sample_group(request)]


async def one_step(parts: Parts) -> None:
    """A step with full micro-batches, and the publish of its policy on every sampler."""
    policy, _ = await parts.learner.step(make_groups(num_groups=2, group_size=8, vocabulary=1000, uneven=False))
    syncs = await parts.pool.publish(policy)
    assert len(syncs) == parts.config.rollout.num_samplers


async def num_blocks(pool: RaySamplerPool) -> int:
    """Blocks in the KV cache of the first sampler."""
    return await inside(pool, lambda sampler: sampler._engine._engine.vllm_config.cache_config.num_gpu_blocks)  # type: ignore[union-attr]


async def num_blocks_alone(config: Config) -> int:
    pool = pool_of(config)
    try:
        await pool.start()
        return await num_blocks(pool)
    finally:
        await pool.close()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.gpu(
    "samplers and learner that start together on one device",
    f"{NUM_STARTS} starts (CPU: {NUM_STARTS_CPU}), each with a step and a publish; KV cache within 5% of alone",
)
@pytest.mark.parametrize("num_samplers", [1, 2])
def test_parts_that_start_together_work_and_have_their_memory(
    num_samplers: int,
    report: Report,
    device: str,
    shaped_model: Path,
    local_ray: None,
    run: RunInLoop,
    tmp_path: Path,
) -> None:
    num_starts = NUM_STARTS if device == "cuda" else NUM_STARTS_CPU
    config = config_for(shaped_model, num_samplers)

    async def start(number: int) -> int:
        async with started(config, tmp_path / f"checkpoints-{number}") as parts:
            blocks = await num_blocks(parts.pool)
            assert len(await sample(parts, 0)) == 4
            await one_step(parts)
            assert {one.policy_version for one in await sample(parts, 1)} == {1}
            return blocks

    alone = run(num_blocks_alone(config))
    together = [run(start(number)) for number in range(num_starts)]
    report(
        f"{num_starts} of {num_starts} starts; {min(together)} to {max(together)} blocks, alone {alone}",
        passed=all(0.95 <= blocks / alone <= 1.05 for blocks in together),
    )


@pytest.mark.long
@pytest.mark.gpu("SIGKILL of a sampler next to a learner after its largest micro-batch", "its group is completed")
def test_a_killed_sampler_comes_back_next_to_a_learner(
    report: Report, shaped_model: Path, local_ray: None, run: RunInLoop, tmp_path: Path
) -> None:
    async def scenario() -> list[Completion]:
        async with started(config_for(shaped_model, 1), tmp_path / "checkpoints") as parts:
            await one_step(parts)
            running = asyncio.create_task(sample(parts, 0, num_tokens=256))
            await asyncio.sleep(0.5)
            killed = engine_processes()
            assert len(killed) == 1
            assert not running.done(), "the group was completed before the sampler was killed"
            killed[0].kill()
            return await running

    group = run(scenario())
    versions = {completion.policy_version for completion in group}
    report(f"{len(group)} of 4 completions, policy {versions}", passed=len(group) == 4 and versions == {1})
