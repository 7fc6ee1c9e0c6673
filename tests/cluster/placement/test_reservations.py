"""Reservations of the pools of a run, and the one request to Ray's autoscaler; Ray's cluster state is a double."""

import pytest

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.placement.ray_cluster import place
from cluster.placement.reservations import Reservations


def config(*overrides: str) -> Config:
    return load_config(None, overrides, environment={})


class ClusterState:
    """Ray's cluster state: some nodes, and the resources in use."""

    def __init__(self, *nodes: dict[str, float], used: dict[str, float] | None = None) -> None:
        self.nodes = nodes
        self.used = used or {}
        self.requests: list[list[dict[str, float]]] = []

    def totals(self) -> dict[str, float]:
        names = {name for node in self.nodes for name in node}
        return {name: sum(node.get(name, 0.0) for node in self.nodes) for name in names}

    def free(self) -> dict[str, float]:
        return {name: amount - self.used.get(name, 0.0) for name, amount in self.totals().items()}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> ClusterState:
    cluster = ClusterState({"CPU": 16.0})
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": node} for node in cluster.nodes])
    monkeypatch.setattr("ray.cluster_resources", cluster.totals)
    monkeypatch.setattr("ray.available_resources", cluster.free)
    monkeypatch.setattr(
        "cluster.placement.reservations.request_resources", lambda bundles: cluster.requests.append(bundles)
    )
    return cluster


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    clock = {"now": 0.0}
    monkeypatch.setattr("cluster.placement.reservations.time.monotonic", lambda: clock["now"])
    return clock


def placed(*overrides: str, gpus: float = 0.0) -> Config:
    return place(config(*overrides), {"CPU": 1000.0, "GPU": gpus}, num_machines=2)


def test_graders_leave_the_resources_of_all_wanted_samplers_and_the_learner_free(cluster: ClusterState) -> None:
    reservations = Reservations(
        placed("num_samplers=2", "cpus_per_sampler=3", "learner.cpus=1", "num_graders=2", "cpus_per_grader=0.5")
    )
    # One sampler is down: its CPUs are free and stay reserved.
    cluster.used = {"CPU": 3.0 + 1.0 + 2 * 0.5}
    assert reservations.graders.num_additional(2) == (16 - 6 - 1 - 1) / 0.5
    reservations.samplers.request(4, minimum=2, num_unplaced=0)
    assert reservations.graders.num_additional(2) == (16 - 12 - 1 - 1) / 0.5


def test_samplers_leave_the_resources_of_the_learner_and_the_minimum_of_graders_free(
    cluster: ClusterState,
) -> None:
    reservations = Reservations(
        placed("cpus_per_sampler=3", "learner.cpus=2", "num_graders=100", "min_graders=4", "cpus_per_grader=0.5")
    )
    assert reservations.samplers.num_additional(1) == (16 - 2 - 4 * 0.5 - 3) // 3
    cluster.used = {"CPU": 12.0}  # graders have taken most of it
    assert reservations.samplers.num_additional(1) == 1
    cluster.used = {"CPU": 14.0}
    assert reservations.samplers.num_additional(1) == 0


def test_a_sampler_fits_only_as_a_whole_on_one_node(cluster: ClusterState) -> None:
    reservations = Reservations(placed("tensor_parallel_size=4", "learner.gpus=1", gpus=64.0))
    cluster.nodes = ({"CPU": 32.0, "GPU": 6.0}, {"CPU": 32.0, "GPU": 6.0})
    assert reservations.samplers.num_additional(0) == 2  # one on each node, next to the learner's GPU
    cluster.nodes = tuple({"CPU": 32.0, "GPU": 3.0} for _ in range(8))
    assert reservations.samplers.num_additional(0) == 0


def test_machines_are_requested_for_all_components_at_once_after_a_persistent_shortage(
    cluster: ClusterState, clock: dict[str, float]
) -> None:
    lines: list[str] = []
    reservations = Reservations(
        placed("num_samplers=2", "num_graders=3", "cpus_per_grader=0.5", "learner.cpus=2", gpus=3.0), lines.append
    )
    sampler, grader, learner = {"CPU": 2.0, "GPU": 1.0}, {"CPU": 0.5}, {"CPU": 2.0, "GPU": 1.0}
    reservations.samplers.request(4, minimum=2, num_unplaced=2)
    clock["now"] = 9.0
    reservations.samplers.request(4, minimum=2, num_unplaced=2)
    assert (cluster.requests, lines) == ([], [])
    clock["now"] = 11.0
    reservations.samplers.request(4, minimum=2, num_unplaced=2)
    assert cluster.requests == [[learner, *[sampler] * 4, *[grader] * 3]]
    assert len(lines) == 1 and lines[0].startswith("samplers: no free resources for 2 of 4; they start")
    # A new number of graders that fit changes the request. It is withdrawn only when neither pool lacks resources.
    reservations.graders.request(5, minimum=3, num_unplaced=0)
    assert cluster.requests[-1] == [learner, *[sampler] * 4, *[grader] * 5]
    reservations.graders.request(8, minimum=3, num_unplaced=3)
    clock["now"] = 30.0
    reservations.graders.request(8, minimum=3, num_unplaced=3)
    reservations.samplers.request(4, minimum=2, num_unplaced=0)
    assert cluster.requests[-1] == [learner, *[sampler] * 4, *[grader] * 8]
    reservations.graders.request(8, minimum=3, num_unplaced=0)
    assert cluster.requests[-1] == []
    num_requests = len(cluster.requests)
    reservations.samplers.request(4, minimum=2, num_unplaced=0)
    assert len(cluster.requests) == num_requests


def test_a_configuration_without_a_learner_reserves_nothing_for_it(cluster: ClusterState) -> None:
    reservations = Reservations(placed("cpus_per_sampler=1", "cpus_per_grader=1").without_learner())
    assert reservations.graders.num_additional(0) == 15


def test_the_minimum_of_graders_takes_precedence_over_samplers_above_their_minimum(cluster: ClusterState) -> None:
    reservations = Reservations(
        placed("num_samplers=12", "min_samplers=1", "num_graders=2", "cpus_per_sampler=1", "cpus_per_grader=1")
    )
    cluster.nodes = ({"CPU": 8.0},)
    cluster.used = {"CPU": 5.5}  # five samplers and the learner run; both graders died
    assert reservations.samplers.num_additional(5) == 0
    assert reservations.graders.num_additional(0) == 2
    assert reservations.graders.num_additional(2) == 0


def test_a_changed_minimum_changes_what_stays_reserved(cluster: ClusterState) -> None:
    reservations = Reservations(placed("num_graders=12", "cpus_per_sampler=1", "learner.cpus=0", "cpus_per_grader=1"))
    cluster.used = {"CPU": 3.0}
    assert reservations.samplers.num_additional(1) == 16 - 12 - 1
    reservations.graders.request(2, minimum=2, num_unplaced=0)  # caravan scale graders=2
    assert reservations.samplers.num_additional(1) == 16 - 3
    reservations.graders.request(12, minimum=12, num_unplaced=0)
    assert reservations.samplers.num_additional(1) == 3
