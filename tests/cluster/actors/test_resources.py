"""Fit of bundles on nodes, and waiting for free resources; Ray's cluster state is faked."""

import asyncio

import pytest

from cluster.actors import resources
from cluster.actors.resources import num_fitting, wait_for_resources
from cluster.errors import ResourcesError


def test_a_bundle_fits_only_as_a_whole_on_one_node() -> None:
    bundle = {"CPU": 3.0, "GPU": 0.3}
    assert num_fitting(bundle, [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]) == 1
    assert num_fitting(bundle, [{"CPU": 16.0, "GPU": 0.9}]) == 3
    assert num_fitting(bundle, [{"CPU": 16.0}]) == 0
    assert num_fitting({"CPU": 1.0}, [{"CPU": 4.0}]) == 4
    assert num_fitting({"CPU": 1.0, "GPU": 0.66}, [{"CPU": 16.0, "GPU": 2.0}]) == 2  # no bundle uses parts of both GPUs
    split = {"CPU": 1.0, "GPU": 4.0}
    assert num_fitting(split, [{"CPU": 16.0, "GPU": 7.0}, {"CPU": 16.0, "GPU": 8.0}]) == 3


class Cluster:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes = [{"CPU": 4.0}]
        self.free = {"CPU": 4.0}
        self.num_reads = 0
        monkeypatch.setattr(resources, "alive_nodes", self._read)
        monkeypatch.setattr("ray.available_resources", lambda: self.free)

    def _read(self) -> list[dict[str, float]]:
        self.num_reads += 1
        return self.nodes


def wait(*, cpus: float, number: int, free_seconds: float = 0.0, join_seconds: float = 0.0) -> None:
    asyncio.run(
        wait_for_resources(
            "samplers", {"CPU": cpus}, number, free_seconds=free_seconds, join_seconds=join_seconds, advice="Lower it"
        )
    )


def test_free_resources_need_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    wait(cpus=2.0, number=2, free_seconds=100.0)
    assert cluster.num_reads == 1
    asyncio.run(wait_for_resources("learner", {}, 1, free_seconds=0.0, join_seconds=0.0, advice=""))
    assert cluster.num_reads == 1


def test_too_few_nodes_are_refused_with_the_numbers_unless_more_may_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster(monkeypatch)
    message = (
        r"samplers: 3 x \(1.5 CPU\) needed, each on one node; "
        r"the cluster's 1 nodes have 4 CPU, enough for 2 after 0 s. Lower it"
    )
    with pytest.raises(ResourcesError, match=message):
        wait(cpus=1.5, number=3, free_seconds=100.0)
    assert cluster.num_reads == 1
    with pytest.raises(ResourcesError, match="enough for 2 after 1 s"):
        wait(cpus=1.5, number=3, join_seconds=1.0)
    assert cluster.num_reads > 2


def test_a_start_waits_for_resources_in_use_up_to_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch)
    cluster.free = {"CPU": 1.0}
    with pytest.raises(ResourcesError, match=r"of the cluster's 4 CPU, 1 CPU are free after 1 s"):
        wait(cpus=1.0, number=2, free_seconds=1.0)

    async def scenario() -> None:
        waiting = asyncio.create_task(
            wait_for_resources("samplers", {"CPU": 1.0}, 2, free_seconds=60.0, join_seconds=0.0, advice="")
        )
        await asyncio.sleep(0.1)
        assert not waiting.done()
        cluster.free = {"CPU": 2.0}
        await waiting

    asyncio.run(scenario())
