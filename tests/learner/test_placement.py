"""Placement of several ranks on a cluster of three machines."""

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ResourcesError
from learner import placement
from learner.client import RayLearner
from learner.placement import place_ranks
from tests.learner.factories import plan, settings

pytestmark = pytest.mark.slow

CPU = {"CPU": 1.0}


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A head with one core, and machines with three and with two."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for num_cpus in (3, 2):
        cluster.add_node(num_cpus=num_cpus)
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def place(machines: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """``place(number)`` -> the machine of each rank; the groups are removed at the end."""
    from ray.util.placement_group import placement_group_table, remove_placement_group

    monkeypatch.setattr(placement, "ONE_MACHINE_SECONDS", 2.0)
    groups = []

    def placed(num_ranks: int) -> list[str]:
        group = asyncio.run(place_ranks(CPU, num_ranks, deadline_seconds=4.0))
        groups.append(group)
        nodes: dict[int, str] = placement_group_table(group)["bundles_to_node_id"]
        return [nodes[rank] for rank in range(num_ranks)]

    yield placed
    for group in groups:
        remove_placement_group(group)


def test_ranks_are_on_one_machine_if_they_fit_and_on_several_only_if_they_must(
    place: Callable[..., list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    with caplog.at_level("WARNING", logger="learner.placement"):
        assert len(set(place(2))) == 1
        assert caplog.text == ""
        # A machine with three cores exists, but the ranks above leave at most two cores free on each machine.
        assert len(set(place(3))) > 1
        assert "the learner's 3 ranks are on 2 machines" in caplog.text
    assert ray.available_resources()["CPU"] == 1.0
    with pytest.raises(ResourcesError, match=r"2 ranks are not free .* after 4 s; .*learner\.num_ranks"):
        place(2)


def test_more_ranks_than_any_machine_holds_are_spread_at_once(
    place: Callable[..., list[str]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "ONE_MACHINE_SECONDS", 1000.0)
    with caplog.at_level("WARNING", logger="learner.placement"):
        assert len(set(place(5))) == 2
    assert "the learner's 5 ranks are on 2 machines" in caplog.text


@pytest.mark.long
def test_the_learner_runs_on_the_machine_of_its_group_and_frees_it(
    machines: Any, model_folder: Path, tmp_path: Path
) -> None:
    import ray
    from ray.util.placement_group import placement_group_table

    async def scenario() -> None:
        learner = RayLearner(settings(num_ranks=3), plan(model_folder, tmp_path))
        await learner.place()
        assert learner._group is not None
        (node,) = set(placement_group_table(learner._group)["bundles_to_node_id"].values())
        await learner.start()
        nodes = [
            actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()) for actor in learner._actors
        ]
        assert ray.get(nodes) == [node] * 3
        await learner.close()
        while ray.available_resources().get("CPU") != 6.0:  # noqa: ASYNC110 - Ray has no event for it
            await asyncio.sleep(0.2)

    asyncio.run(asyncio.wait_for(scenario(), 300))
