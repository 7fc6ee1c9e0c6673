"""The placement of a run on GPUs: values that are filled in, warnings and refusals."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import ResourcesError
from cluster.placement.gpu_facts import GpuFacts, MachineGpus
from cluster.placement.ray_cluster import Cluster
from cluster.run.preflight import place_run
from tests.cluster.placement.test_plan import QWEN_1_5B, QWEN_7B

CLUSTER = Cluster(
    resources={"CPU": 16.0, "GPU": 1.0},
    nodes=[
        {"Alive": True, "NodeID": "a", "NodeManagerAddress": "a", "Resources": {"CPU": 16.0, "GPU": 1.0}},
    ],
    logs=Path(),
)
RTX_4090 = GpuFacts(
    name="NVIDIA GeForce RTX 4090", total_bytes=25_393_692_672, driver="580.1", compute_capability=(8, 9)
)


class Lines(View):
    """Collects log lines and warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(f"warning: {text}")


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> dict[str, MachineGpus]:
    found = {"a": MachineGpus(gpus=(RTX_4090,))}
    monkeypatch.setattr("cluster.run.preflight.gpus_of_nodes", lambda _nodes: found)
    monkeypatch.setattr("cluster.run.preflight.ask_nodes", lambda nodes, *_: [2**40] * len(nodes))
    return found


def config_of(folder: Path, model: dict[str, object], *settings: str) -> Config:
    (folder / "config.json").write_text(json.dumps({**model, "architectures": ["Qwen2ForCausalLM"]}))
    return load_config(None, [f"model.path={folder}", *settings], environment={})


def test_a_run_on_a_shared_gpu_gets_its_cache_and_sizes_from_the_drivers_memory(tmp_path: Path) -> None:
    view = Lines()
    placed = place_run(config_of(tmp_path, QWEN_1_5B), CLUSTER, view)
    size = placed.rollout.kv_cache_memory_bytes
    assert size is not None and 2e9 < size < 0.5 * RTX_4090.total_bytes
    line, mode = view.lines
    assert mode == "rollout.weight_sync_mode=versions (auto)"
    assert line.startswith("filled in for these machines:") and f"rollout.kv_cache_memory_bytes={size}" in line
    evaluated = place_run(config_of(tmp_path, QWEN_1_5B, "num_samplers=2").without_learner(), CLUSTER, Lines())
    assert evaluated.rollout.gpus_per_sampler == 0.5 and evaluated.rollout.kv_cache_memory_bytes is not None


@pytest.mark.parametrize(("weights", "mode"), [("model.safetensors", "merged"), ("pytorch_model.bin", "versions")])
def test_adapters_are_merged_on_the_cpu_if_the_model_has_files_for_it(tmp_path: Path, weights: str, mode: str) -> None:
    config, cluster = config_of(tmp_path, QWEN_1_5B), replace(CLUSTER, resources={"CPU": 16.0})
    (tmp_path / weights).touch()
    view = Lines()
    assert place_run(config, cluster, view).rollout.weight_sync_mode == mode
    assert f"rollout.weight_sync_mode={mode} (auto" in view.lines[-1]
    given = config.changed({"rollout.weight_sync_mode": "in_flight"})
    assert place_run(given, cluster, view).rollout.weight_sync_mode == "in_flight"


def test_a_run_that_does_not_fit_is_warned_of_by_estimate_and_refused_by_its_weights(tmp_path: Path) -> None:
    view = Lines()
    assert place_run(config_of(tmp_path, QWEN_1_5B, "micro_batch_tokens=16384"), CLUSTER, view)
    assert (
        sum("warning: by the estimates of `caravan plan`, the learner does not fit" in line for line in view.lines) == 1
    )
    with pytest.raises(ResourcesError, match=r"cannot fit on 1 GPU with 23\.6 GiB"):
        place_run(config_of(tmp_path, QWEN_7B), CLUSTER, Lines())


def test_a_driver_that_does_not_answer_is_reported_and_nothing_is_refused(
    tmp_path: Path, gpus: dict[str, MachineGpus]
) -> None:
    gpus["a"] = MachineGpus(error="NVIDIA's driver does not answer: no such device")
    view = Lines()
    placed = place_run(config_of(tmp_path, QWEN_7B), CLUSTER, view)
    assert placed.rollout.kv_cache_memory_bytes is None
    assert "warning: GPU memory is not checked: NVIDIA's driver does not answer: no such device" in view.lines
