"""The pool on a cluster whose CPU nodes join and leave."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.types import Verdict

from .test_pool_scaling import SETTINGS, slow_jobs, until

pytestmark = pytest.mark.long

ONE_CPU_PER_GRADER = {"num_graders": 3, "min_graders": 1, "max_graders": 3, "cpus_per_grader": 1.0}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head node with CPUs for one grader, in its own processes."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's spelling
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_graders_start_on_nodes_that_join_and_the_work_of_a_node_that_leaves_is_graded_elsewhere(cluster: Any) -> None:
    from grader.pool import RayGraderPool

    async def scenario() -> None:
        pool = RayGraderPool(SETTINGS.model_copy(update=ONE_CPU_PER_GRADER))
        await pool.start()
        jobs = slow_jobs(pool, 40)
        node = cluster.add_node(num_cpus=2)
        await until(lambda: pool.usage().num_replicas == 3)
        cluster.remove_node(node, allow_graceful=False)
        grades = await asyncio.gather(*jobs)
        assert [grade.facts.verdict for grade in grades] == [Verdict.TIMEOUT] * 40
        assert (pool.counts.graded, pool.counts.ungradable) == (40, 0)
        assert pool.counts.replaced_actors == 2
        await until(lambda: pool.usage().num_replicas == 1)
        # The graders start again on a new node.
        cluster.add_node(num_cpus=2)
        await until(lambda: pool.usage().num_replicas == 3)
        await pool.close()

    asyncio.run(asyncio.wait_for(scenario(), 400))
