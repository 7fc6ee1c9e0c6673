"""The pool on a cluster whose GPU nodes join and fail: real Ray nodes and actors around a scripted sampler, without an engine."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.config.load import load_config
from cluster.placement.reservations import Reservations
from cluster.types import Completion, GroupRequest, PolicyVersion, Prompt, Sampling, WeightSync
from rollout.pool import RaySamplerPool

from .test_faults import collect
from .test_pool_scaling import SETTINGS, _scripted, process_of, until  # noqa: F401 - a fixture

pytestmark = pytest.mark.long

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"
TWO_ON_GPUS = {"num_samplers": 2, "min_samplers": 1, "max_samplers": 2, "gpus_per_sampler": 1.0}


def request(text: str, *, size: int) -> GroupRequest:
    sampling = Sampling(temperature=1.0, max_completion_tokens=8)
    return GroupRequest(
        group_id=text,
        prompt=Prompt(problem_id="p", text=text, token_ids=(1, 2)),
        group_size=size,
        sampling=sampling,
        seed=1,
    )


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without GPUs, in separate processes."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray refuses nodes with more GPUs than it lists
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.connect()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_samplers_start_on_nodes_that_join_and_the_work_of_a_failed_node_is_sampled_elsewhere(
    cluster: Any,
) -> None:
    settings = SETTINGS.model_copy(update=TWO_ON_GPUS)
    config = load_config(DEMO, ["num_graders=1", "learner.cpus=0", "learner.gpus=0"])
    reservations = Reservations(config.model_copy(update={"rollout": settings}))
    lines: list[str] = []

    def gpu_node() -> Any:
        return cluster.add_node(num_cpus=1, num_gpus=1)

    async def scenario() -> tuple[list[Completion], list[list[Completion]], WeightSync, list[list[Completion]]]:
        first = gpu_node()
        pool = RaySamplerPool(settings, model="fine", lora_rank=8, reservation=reservations.samplers, log=lines.append)
        await pool.start()
        await pool.publish(PolicyVersion(number=1, adapter={}))
        alone = await collect(pool, request("fine:", size=1))
        gpu_node()
        await until(lambda: pool.usage().num_replicas == 2)

        groups = [asyncio.create_task(collect(pool, request(f"slow: {n} ", size=4))) for n in range(8)]
        await asyncio.sleep(0.5)
        cluster.remove_node(first, allow_graceful=False)
        await asyncio.gather(*groups)
        (swap,) = await pool.publish(PolicyVersion(number=2, adapter={}))  # does not wait for the sampler that is down
        gpu_node()
        await until(lambda: pool.usage().num_replicas == 2)
        last = await asyncio.gather(*(collect(pool, request("slow: ", size=6)) for _ in range(2)))
        await pool.close()
        return alone, [task.result() for task in groups], swap, last

    alone, groups, swap, last = asyncio.run(asyncio.wait_for(scenario(), 400))
    assert lines[0].startswith("samplers: free resources for 1 of 2")
    assert Counter((c.group_id, c.index) for group in groups for c in group) == Counter(
        {(f"slow: {n} ", index): 1 for n in range(8) for index in range(4)}
    )
    assert {c.policy_version for group in groups for c in group} == {1}
    assert {c.policy_version for group in last for c in group} == {2}
    # The sampler on the failed node is not one of the two at the end.
    survivors = {process_of(c) for group in last for c in group}
    assert len(survivors) == 2
    assert process_of(alone[0]) not in survivors
    assert swap.sampler == "sampler 1"
