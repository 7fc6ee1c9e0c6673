"""One engine over two processes (tensor parallelism) on the CPU, compared with transformers and peft."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ModelError
from cluster.types import PolicyVersion
from rollout.pool import RaySamplerPool
from rollout.sampler import Sampler
from tests.rollout.conftest import LORA_RANK, MakeRequest, RunInLoop, TinyModel

from .test_pool import SETTINGS, TOLERANCE, collect, inside, worst_gap

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def pool(local_ray: None, run: RunInLoop, tiny_model: TinyModel) -> Iterator[RaySamplerPool]:
    pool = RaySamplerPool(
        SETTINGS.model_copy(update={"tensor_parallel_size": 2}),
        model=tiny_model.path,
        lora_rank=LORA_RANK,
        max_staleness=1,
    )
    run(pool.start())
    yield pool
    run(pool.close())


def test_a_split_engine_samples_like_the_whole_model_under_a_verified_adapter(
    pool: RaySamplerPool,
    run: RunInLoop,
    tiny_model: TinyModel,
    policies: dict[int, PolicyVersion],
    adapter_folders: dict[int, Path],
    request_for: MakeRequest,
) -> None:
    assert worst_gap(tiny_model, run(collect(pool.sample_group(request_for("base"))))) < TOLERANCE
    for version in (1, 2):
        (swap,) = run(pool.publish(policies[version]))
        assert swap.gap is not None and swap.gap < 1e-5
        group = run(collect(pool.sample_group(request_for("g"))))
        assert {completion.policy_version for completion in group} == {version}
        assert worst_gap(tiny_model, group, adapter_folders[version]) < TOLERANCE


def test_both_processes_have_their_slices_of_the_adapter(
    pool: RaySamplerPool, run: RunInLoop, adapter_folders: dict[int, Path], policies: dict[int, PolicyVersion]
) -> None:
    async def compared(folder: str) -> list[Any]:
        def compare(sampler: Sampler) -> list[Any]:
            assert sampler._engine is not None
            engine = sampler._engine._engine
            call = engine.collective_rpc("bound_modules", args=(policies[2].number + 1, folder))  # its slot
            # Ray runs this concurrently with the engine's event loop.
            seen: list[Any] = asyncio.run_coroutine_threadsafe(call, engine.output_handler.get_loop()).result(60)
            return seen

        return await inside(pool, compare)

    same = run(compared(str(adapter_folders[2])))
    assert len(same) == 2
    assert all((sorted(bound), differing) == (sorted(policies[2].modules), []) for _, bound, differing in same)
    other = run(compared(str(adapter_folders[1])))
    assert all(sorted(differing) == sorted(policies[2].modules) for _, _, differing in other)


def test_a_model_that_cannot_be_split_is_refused_before_an_engine_starts(
    local_ray: None, run: RunInLoop, tiny_model: TinyModel, pool: RaySamplerPool
) -> None:
    settings = SETTINGS.model_copy(update={"tensor_parallel_size": 3})
    with pytest.raises(ModelError, match=r"rollout.tensor_parallel_size=3 does not split .*: possible are 1, 2, 4"):
        run(RaySamplerPool(settings, model=tiny_model.path, lora_rank=LORA_RANK).start())
