"""The metrics of a run as Prometheus scrapes them from Ray's nodes."""

import time
import urllib.request

import pytest

from cluster.placement.local_ray import start_ray
from cluster.run.gauges import Gauges

pytestmark = pytest.mark.slow

DEADLINE_SECONDS = 60


@pytest.mark.long
def test_the_metrics_of_a_step_are_exported_by_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setenv("RAY_worker_niceness", "0")
    start_ray(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        (node,) = ray.nodes()
        address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        gauges = Gauges("overnight")
        exported: list[str] = []
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(exported) < 2:
            assert time.monotonic() < deadline, "no gauge was exported"
            gauges.show({"reward": 0.5, "sampling/sampling_logp_difference/mean": 0.25, "canary_gap_max": None})
            time.sleep(1)
            lines = read(address)
            exported = [line for line in lines if line.startswith("ray_caravan_") and 'run="overnight"' in line]
    finally:
        ray.shutdown()
    assert {(line.partition("{")[0], line.rpartition(" ")[2]) for line in exported} == {
        ("ray_caravan_reward", "0.5"),
        ("ray_caravan_sampling_sampling_logp_difference_mean", "0.25"),
    }


def read(address: str) -> list[str]:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return str(answer.read(), "utf-8").splitlines()
    except OSError:
        return []  # the node's agent is not up yet
