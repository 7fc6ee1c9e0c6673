import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from cluster.config.config import Config, dump_yaml
from cluster.config.load import load_config
from cluster.config.model_path import tiny_model_path
from cluster.errors import ResourcesError
from cluster.placement.plan.machines import Machine
from cluster.placement.plan.model_shape import shape_of
from cluster.placement.plan.places import make_plan
from cluster.placement.ray_cluster import _start_advice, filled_in, place, ray_cluster


def config(*overrides: str) -> Config:
    return load_config(None, overrides, environment={})


def test_the_driver_sees_no_gpu_once_ray_has_counted_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def start(_: object) -> SimpleNamespace:
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
        return SimpleNamespace(address_info={"session_dir": str(tmp_path)})

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr("cluster.placement.ray_cluster.find_cluster", lambda _: None)
    monkeypatch.setattr("cluster.placement.ray_cluster._start", start)
    for name, value in (("cluster_resources", {"GPU": 1.0}), ("nodes", []), ("shutdown", None)):
        monkeypatch.setattr(f"ray.{name}", lambda value=value: value)
    with ray_cluster(lambda _: None):
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert [*seen, os.environ["CUDA_VISIBLE_DEVICES"]] == ["3", "", "3"]


def test_a_cluster_without_gpus_runs_on_cpus() -> None:
    placed = place(config(), {"CPU": 16.0}, num_machines=2)
    assert (placed.rollout.gpus_per_sampler, placed.learner.gpus) == (0.0, 0.0)


def test_one_gpu_is_shared_by_sampler_and_learner() -> None:
    placed = place(config(), {"CPU": 16.0, "GPU": 1.0}, num_machines=2)
    assert (placed.rollout.gpus_per_sampler, placed.learner.gpus) == (0.5, 0.5)
    assert placed.rollout.gpu_memory_utilization < 0.5
    assert placed.rollout.cpus_per_sampler == 2  # actor and engine
    assert place(config("cpus_per_sampler=1"), {"CPU": 16.0, "GPU": 1.0}, num_machines=2).rollout.cpus_per_sampler == 1
    small = place(config(), {"CPU": 2.0, "GPU": 1.0}, num_machines=1)
    assert 1 < small.rollout.cpus_per_sampler < 2


@pytest.mark.parametrize(
    ("settings", "num_gpus", "left"),
    [
        ((), 1.0, 0.575),  # one sampler of 0.85 * 0.5
        (("num_samplers=2",), 1.0, 0.438),
        (("num_samplers=2", "learner.gpu_memory_share=0.3"), 1.0, 0.3),
        (("gpu_memory_utilization=1",), 1.0, None),  # no limit is possible; plan warns
        ((), 2.0, None),
        (("num_samplers=4", "learner.gpus=1", "gpus_per_sampler=0.5"), 3.0, None),
        (("learner.gpus=0.5", "gpus_per_sampler=1"), 2.0, None),
        ((), 0.0, None),
    ],
)
def test_a_learner_is_limited_to_the_memory_not_used_by_samplers_on_its_gpu(
    settings: tuple[str, ...], num_gpus: float, left: float | None
) -> None:
    placed = place(config(*settings), {"CPU": 16.0, "GPU": num_gpus}, num_machines=2)
    assert placed.learner.gpu_memory_share == left


def test_each_part_has_its_own_gpu_if_there_are_enough() -> None:
    placed = place(config("num_samplers=3"), {"CPU": 16.0, "GPU": 8.0}, num_machines=2)
    assert (placed.rollout.gpus_per_sampler, placed.learner.gpus) == (1.0, 1.0)


def test_each_rank_of_the_learner_takes_a_whole_gpu_and_the_samplers_share_the_others() -> None:
    placed = place(config("num_samplers=4", "num_ranks=2"), {"CPU": 16.0, "GPU": 4.0}, num_machines=2)
    assert (placed.rollout.gpus_per_sampler, placed.learner.gpus) == (0.5, 1.0)
    placed = place(config("num_samplers=6", "num_ranks=2"), {"CPU": 16.0, "GPU": 8.0}, num_machines=2)
    assert (placed.rollout.gpus_per_sampler, placed.learner.gpus) == (1.0, 1.0)
    placed = place(config("num_samplers=4", "num_ranks=2", "learner.gpus=0"), {"CPU": 16.0, "GPU": 4.0}, num_machines=2)
    assert (placed.rollout.gpus_per_sampler, placed.learner.gpus) == (1.0, 0.0)
    placed = place(config("num_ranks=2"), {"CPU": 16.0}, num_machines=2)
    assert (placed.rollout.gpus_per_sampler, placed.learner.gpus) == (0.0, 0.0)
    wanted = (
        r"needs 3 GPU \(1 sampler x 1 \+ 2 ranks of the learner x 1\), but the cluster has 2\. .*learner\.num_ranks"
    )
    with pytest.raises(ResourcesError, match=wanted):
        place(config("num_ranks=2"), {"CPU": 16.0, "GPU": 2.0}, num_machines=2)


def test_configured_shares_are_kept() -> None:
    placed = place(
        config("gpus_per_sampler=0.3", "gpu_memory_utilization=0.2"), {"CPU": 16.0, "GPU": 1.0}, num_machines=2
    )
    assert (placed.rollout.gpus_per_sampler, placed.rollout.gpu_memory_utilization) == (0.3, 0.2)


def test_more_samplers_than_resources_are_refused_with_the_numbers() -> None:
    with pytest.raises(ResourcesError, match=r"needs 10\d\.5 CPU \(100 samplers x 1 .*but the cluster has 2\. Lower"):
        place(config("num_samplers=100"), {"CPU": 2.0}, num_machines=2)
    with pytest.raises(ResourcesError, match=r"needs 2 GPU .*the cluster has 1"):
        place(config("gpus_per_sampler=1", "learner.gpus=1"), {"CPU": 64.0, "GPU": 1.0}, num_machines=2)


def test_only_the_minimum_of_graders_has_to_fit() -> None:
    many = ("num_graders=400", "cpus_per_grader=1", "max_graders=4000")
    placed = place(config(*many, "min_graders=2"), {"CPU": 16.0}, num_machines=2)
    assert (placed.grader.minimum, placed.grader.num_graders, placed.grader.maximum) == (2, 400, 4000)
    with pytest.raises(ResourcesError, match=r"50 graders x 1 .*but the cluster has 16"):
        place(config(*many, "min_graders=50"), {"CPU": 16.0}, num_machines=2)
    with pytest.raises(ResourcesError, match=r"400 graders x 1 "):
        place(config(*many), {"CPU": 16.0}, num_machines=2)


def test_only_the_minimum_of_samplers_has_to_fit() -> None:
    placed = place(config("num_samplers=40", "min_samplers=2", "max_samplers=80"), {"CPU": 16.0}, num_machines=2)
    assert (placed.rollout.minimum, placed.rollout.num_samplers, placed.rollout.maximum) == (2, 40, 80)
    with pytest.raises(ResourcesError, match=r"20 samplers x 1 .*but the cluster has 16.*min_samplers"):
        place(config("num_samplers=40", "min_samplers=20"), {"CPU": 16.0}, num_machines=2)


def test_a_split_engine_and_the_learner_take_whole_gpus() -> None:
    placed = place(config("num_samplers=2", "tensor_parallel_size=4"), {"CPU": 16.0, "GPU": 9.0}, num_machines=2)
    assert placed.rollout.bundle == {"CPU": 6.0, "GPU": 4.0}  # actor, engine, and a process per GPU
    assert (placed.rollout.gpu_memory_utilization, placed.learner.gpus) == (0.85, 1.0)
    with pytest.raises(ResourcesError, match=r"needs 9 GPU \(2 samplers x 4 \+ learner 1\), but the cluster has 8\."):
        place(config("num_samplers=2", "tensor_parallel_size=4"), {"CPU": 16.0, "GPU": 8.0}, num_machines=2)
    assert place(config("tensor_parallel_size=2"), {"CPU": 16.0}, num_machines=2).rollout.bundle == {"CPU": 1.0}


@pytest.mark.parametrize("num_gpus", range(1, 10))
@pytest.mark.parametrize("num_samplers", [1, 2, 3, 4, 7, 8, 9, 16])
@pytest.mark.parametrize("set_by_hand", [(), ("learner.gpus=1",), ("learner.gpus=0.4",), ("learner.gpus=0",)])
def test_every_filled_in_share_fits_on_one_gpu(num_gpus: int, num_samplers: int, set_by_hand: tuple[str, ...]) -> None:
    if set_by_hand == ("learner.gpus=1",) and num_gpus == 1:
        with pytest.raises(ResourcesError):
            place(config(f"num_samplers={num_samplers}", *set_by_hand), {"CPU": 99.0, "GPU": 1.0}, num_machines=2)
        return
    placed = place(
        config(f"num_samplers={num_samplers}", *set_by_hand), {"CPU": 99.0, "GPU": float(num_gpus)}, num_machines=2
    )
    share = placed.rollout.gpus_per_sampler
    left = [1.0 - placed.learner.gpus, *[1.0] * (num_gpus - 1)]
    assert sum(int(gpu / share + 1e-6) for gpu in left) >= num_samplers
    # A larger share does not fit: 2% more, because shares are in hundredths.
    assert share == 1 or sum(int(gpu / (1.02 * share + 0.01)) for gpu in left) < num_samplers + (not set_by_hand)


def test_without_a_learner_a_sampler_has_its_gpu_alone() -> None:
    for num in (1, 4):
        placed = place(
            config(f"num_samplers={num}").without_learner(), {"CPU": 16.0, "GPU": float(num)}, num_machines=2
        )
        assert (placed.rollout.gpus_per_sampler, placed.rollout.gpu_memory_utilization) == (1.0, 0.85)


def cores_of(placed: Config) -> float:
    rollout, grader, learner = placed.rollout, placed.grader, placed.learner
    return (
        rollout.minimum * rollout.cpus_per_sampler
        + grader.minimum * grader.cpus_per_grader
        + learner.num_ranks * learner.cpus
    )


@pytest.mark.parametrize("cores", [1.0, 2.0])
@pytest.mark.parametrize("overrides", [(), ("num_graders=8",), ("num_ranks=2",), ("learner.cpus=0.6",)])
def test_default_shares_of_cores_fit_a_small_machine(cores: float, overrides: tuple[str, ...]) -> None:
    wanted = config(*overrides)
    placed = place(wanted, {"CPU": cores}, num_machines=1)
    assert 0.99 * cores < cores_of(placed) <= cores
    assert (placed.learner.cpus == 0.6) == ("learner.cpus=0.6" in overrides)
    line = filled_in(wanted, placed)
    assert line and f"rollout.cpus_per_sampler={placed.rollout.cpus_per_sampler:g}" in line
    plan = make_plan(wanted, shape_of(str(tiny_model_path())), [Machine(name="laptop", cpus=cores)])
    assert plan.config == placed
    assert place(wanted.without_learner(), {"CPU": cores}, num_machines=1).learner.cpus == 0


def test_default_shares_are_kept_on_a_machine_with_enough_cores() -> None:
    placed = place(config(), {"CPU": 2.5}, num_machines=1)
    assert cores_of(placed) == 2.5
    assert filled_in(config(), placed) is None


def test_configured_shares_of_cores_are_kept_or_refused_by_key() -> None:
    with pytest.raises(ResourcesError, match=r"but the cluster has 2 \(set: rollout\.cpus_per_sampler\)"):
        place(config("cpus_per_sampler=2"), {"CPU": 2.0}, num_machines=1)
    with pytest.raises(ResourcesError, match=r"needs 101\.5 CPU"):  # 100 engines need more than two cores
        place(config("num_samplers=100"), {"CPU": 2.0}, num_machines=1)


def test_shares_are_not_fitted_to_the_sum_of_several_machines() -> None:
    with pytest.raises(ResourcesError, match=r"needs 2\.5 CPU"):
        place(config(), {"CPU": 2.0}, num_machines=2)


def test_filled_in_shares_are_not_written_to_the_configuration() -> None:
    plain = yaml.safe_load(dump_yaml(config("learner.cpus=0.5")))
    assert plain["learner"]["cpus"] == 0.5
    assert "cpus_per_sampler" not in plain["rollout"]
    assert "cpus_per_grader" not in plain["grader"]


def test_a_full_folder_is_named_when_ray_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "busy with other work" in _start_advice(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    assert _start_advice(tmp_path) == (
        f"{tmp_path} has 1 MiB free: make room there, or set RAY_TMPDIR to another folder"
    )
