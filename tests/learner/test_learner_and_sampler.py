"""Agreement of the logprobs of real vLLM and the real learner on tokens that vLLM sampled under the learner's adapter."""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from cluster.config.model_path import tiny_model_path
from cluster.placement.local_ray import start_ray
from cluster.types import Completion, Group, GroupRequest, PolicyVersion, ProbePrompt, Problem, Prompt, Sampling
from grader.fake import grade_of
from tests.learner.factories import group

pytestmark = [pytest.mark.slow, pytest.mark.model_runner]

# Bounds of the mean and the largest difference (nats per token), and of the mean ratio's distance to 1.
BOUNDS = {"float32": (1e-5, 1e-3, 1e-4), "bfloat16": (0.02, 0.5, 0.02)}
TEXT = "(** Twice a number.\n * >>> twice 2\n * 4\n *)\nlet twice (n : int) : int =\n"


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    import ray

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    folder = tempfile.mkdtemp(prefix="caravan-ray-", dir="/tmp")  # a short path: Ray puts sockets into it
    start_ray(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def sampling(dtype: str, base: tuple[ProbePrompt, ...], policy: PolicyVersion) -> AsyncIterator[Any]:
    from rollout.pool import RaySamplerPool
    from rollout.settings import RolloutSettings
    from rollout.weight_sync import tolerance

    settings = RolloutSettings(
        max_prompt_tokens=192,
        max_completion_tokens=64,
        enforce_eager=True,
        kv_cache_gib=0.25,
        dtype=dtype,
        weight_sync_mode="versions",
    )
    pool = RaySamplerPool(settings, model=str(tiny_model_path()), lora_rank=8)
    try:
        await pool.start()
        pool.set_tolerance(tolerance(settings, await pool.base_gaps(base)))
        (sync,) = await pool.publish(policy)
        assert sync.gap is not None and sync.gap < sync.tolerance <= (1e-3 if dtype == "float32" else 0.05)
        yield pool
    finally:
        await pool.close()


async def sampled(
    dtype: str, base: tuple[ProbePrompt, ...], policy: PolicyVersion, prompts: list[tuple[int, ...]]
) -> list[list[Completion]]:
    async with sampling(dtype, base, policy) as pool:
        completions = [
            sorted(
                [
                    each
                    async for each in pool.sample_group(
                        GroupRequest(
                            group_id=f"g{number}",
                            prompt=Prompt(problem_id="p", text="", token_ids=ids),
                            group_size=4,
                            sampling=Sampling(temperature=1.2, max_completion_tokens=48),
                            seed=100 * number,
                        )
                    )
                ],
                key=lambda each: each.index,
            )
            for number, ids in enumerate(prompts)
        ]
        await check_that_another_scale_fails(pool, policy)
        return completions


async def check_that_another_scale_fails(pool: Any, policy: PolicyVersion) -> None:
    """Publish the adapter with twice its scale in its files too, so that only the probe prompts show the error."""
    import ray

    config = json.loads(policy.adapter["adapter_config.json"])
    config["lora_alpha"] *= 2
    files = {**policy.adapter, "adapter_config.json": json.dumps(config).encode()}
    handle = ray.put(replace(policy, number=policy.number + 1, adapter=files))
    (replica,) = pool._lifecycle.replicas
    _, verification = await replica.load_policy(handle, frozenset(), pool._lifecycle.tolerance, 60.0)
    assert verification.differing == verification.missing == ()
    assert "nats per token away from the learner's" in verification.failure


@pytest.mark.parametrize(
    "dtype", [dtype if dtype == "float32" else pytest.param(dtype, marks=pytest.mark.long) for dtype in BOUNDS]
)
def test_learner_and_sampler_agree_on_the_tokens_of_an_adapter(
    dtype: str, make_learner: Callable[..., Any], local_ray: None
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    prompts = [tuple(tokenizer.encode(TEXT.replace("2", str(number)))) for number in range(8)]
    planned: dict[str, Any] = {"model": str(tiny_model_path()), "temperature": 1.2, "max_completion_tokens": 48}
    planned["probe_ids"] = tuple(ids[-min(map(len, prompts)) :] for ids in prompts)
    learner = make_learner(dtype=dtype, planned=planned, learning_rate=3e-3, micro_batch_tokens=400)
    base = learner.base_probes()
    policy, _ = learner.step([group([1.0, 0.0, 0.5])])
    groups = [
        Group(
            id=completions[0].group_id,
            problem=Problem(id="p", statement="", signature="", tests=""),
            completions=tuple(completions),
            grades=tuple(grade_of(reward) for reward in (1.0, 0.0, 0.5, 0.25)),
        )
        for completions in asyncio.run(sampled(dtype, base, policy, prompts[:3]))
    ]
    metrics = learner.step(groups)[1].metrics
    assert metrics["num_completion_tokens"] > 100
    found = [
        metrics["sampling/sampling_logp_difference/mean"],
        metrics["sampling/sampling_logp_difference/max"],
        abs(metrics["sampling/importance_sampling_ratio/mean"] - 1),
    ]
    assert all(value <= bound for value, bound in zip(found, BOUNDS[dtype], strict=True)), found
