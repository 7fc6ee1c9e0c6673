"""``caravan check``: the checks of a run as a whole, its smoke run, and its exit code."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import main
from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import ModelError
from cluster.placement.check.checks import Check, Level
from cluster.placement.check.node_facts import NodeFacts, installed_versions
from cluster.placement.gpu_facts import MachineGpus
from cluster.placement.plan.machines import parse_machines
from cluster.placement.ray_cluster import Cluster
from cluster.run import check as checking
from cluster.run import preflight, smoke
from cluster.run.check import run_checks
from tests.cluster.placement.test_check import GOOD

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "configs/demo.yaml"
MACHINES = parse_machines(["cpus=8"])
COMPLETE = replace(GOOD, versions=installed_versions()[0])


def demo(folder: Path, *settings: str) -> Config:
    return load_config(DEMO, [f"run.folder={folder}", *settings], environment={})


def failures(config: Config, facts: Sequence[NodeFacts] = (COMPLETE,)) -> list[Check]:
    return [check for check in run_checks(config, MACHINES, lambda _: facts) if check.level is not Level.OK]


def test_a_run_that_can_start_is_ok_and_leaves_no_file(tmp_path: Path) -> None:
    assert failures(demo(tmp_path / "new" / "runs")) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "name", "words"),
    [
        (
            "dataset=/nowhere/problems.jsonl",
            "data",
            "data.dataset=/nowhere/problems.jsonl: the driver's machine has no such",
        ),
        ("num_samplers=99", "plan", "99 samplers x 0.5"),
        ("learner.lora.target_modules=[nothing_proj]", "model", "nothing_proj"),
    ],
)
def test_a_run_that_cannot_start_fails_with_its_cause(tmp_path: Path, setting: str, name: str, words: str) -> None:
    (check,) = failures(demo(tmp_path, setting))
    assert (check.place, check.name, check.level) == ("run", name, Level.FAIL)
    assert words in check.advice


def test_a_missing_model_and_dataset_are_listed_together(tmp_path: Path) -> None:
    config = demo(tmp_path, "model.path=/nowhere/model", "dataset=/nowhere/problems.jsonl")
    names = [check.name for check in failures(config, [replace(COMPLETE, model_error="there is no such folder")])]
    assert names == ["model", "data", "model"]


def test_a_cluster_without_the_gpus_that_a_run_needs_names_the_driver(tmp_path: Path) -> None:
    plan, driver = failures(
        demo(tmp_path, "learner.gpus=1"), [replace(COMPLETE, gpus=MachineGpus(error="Driver Not Loaded"))]
    )
    assert "the cluster has 0" in plan.advice
    assert (driver.name, driver.level) == ("driver", Level.FAIL)
    assert "Driver Not Loaded" in driver.advice


def test_a_run_folder_that_is_not_writable_or_is_deleted_with_the_job_fails(tmp_path: Path) -> None:
    (check,) = run_folder_checks(demo(Path("/proc")), None)
    assert (check.level, check.found) == (Level.FAIL, "cannot be written")
    (check,) = run_folder_checks(demo(tmp_path / "session/runs"), tmp_path)
    assert "which Ray deletes" in check.advice


def run_folder_checks(config: Config, ray_folder: Path | None) -> list[Check]:
    return [
        check for check in run_checks(config, MACHINES, lambda _: [COMPLETE], ray_folder) if check.name == "run folder"
    ]


def test_the_smoke_run_has_the_users_settings_and_one_short_step(tmp_path: Path) -> None:
    config = demo(tmp_path, "loop.epochs=3", "schedule=staged-rewards", "learner.warmup_steps=0.1", "group_size=5")
    short = smoke.smoke_config(config, tmp_path / "temporary")
    assert short.num_steps(1000) == 1
    assert short.loop.groups_per_step == 1
    assert short.run.folder == tmp_path / "temporary"
    # The engines start as they will in the run; only the completions are short.
    assert short.rollout == config.rollout
    assert short.settings_schedule().at(step=0, epoch=0.0) == {"rollout.max_completion_tokens": 64}
    assert short.learner.lora == config.learner.lora
    assert short.learner.warmup_steps == 0


def test_a_smoke_run_that_fails_is_a_failed_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_config: Config, _view: View) -> int:
        raise ModelError("vLLM does not serve it")

    monkeypatch.setattr(smoke, "train", refuse)
    check = smoke.smoke_check(demo(tmp_path))
    assert check is not None
    assert (check.level, check.advice) == (Level.FAIL, "vLLM does not serve it")


def test_an_interrupted_smoke_run_is_no_failed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def interrupted(_config: Config, _view: View) -> int:
        raise asyncio.CancelledError

    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setattr(checking, "inspect_node", lambda _: COMPLETE)
    monkeypatch.setattr(smoke, "train", interrupted)
    assert main(["check", "-c", str(DEMO), f"run.folder={tmp_path}"]) == 130
    printed = capsys.readouterr()
    assert printed.err.count("interrupted") == 1
    assert "FAIL" not in printed.out


def test_a_smoke_run_without_a_gradient_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "train", trained(gradient=0.0))
    check = smoke.smoke_check(demo(tmp_path))
    assert check is not None and check.level is Level.WARN
    monkeypatch.setattr(smoke, "train", trained(gradient=0.5))
    check = smoke.smoke_check(demo(tmp_path))
    assert check is not None and check.level is Level.OK
    assert "6 completions, reward 0.25, gradient norm 0.5, weight-sync gap 2.0e-07 nats" in check.found


def trained(*, gradient: float) -> Callable[[Config, View], Coroutine[Any, Any, int]]:
    """A run that ends with this gradient norm."""

    async def train(config: Config, _view: View) -> int:
        folder = config.run.folder / "smoke"
        folder.mkdir()
        step = {"step": 1, "epoch": 0.0, "num_completions": 6, "reward": 0.25, "grad_norm": gradient}
        (folder / "metrics.jsonl").write_text(f"{json.dumps(step)}\n")
        (folder / "publishes.jsonl").write_text(f"{json.dumps({'step': 1, 'canary_gap_max': 2e-7})}\n")
        return 0

    return train


def test_the_exit_code_is_1_if_a_check_fails_and_no_smoke_run_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    started: list[Config] = []

    def smoke_check(config: Config) -> Check:
        started.append(config)
        return Check(place="run", name="smoke run", found="1 step", wanted="1 step")

    monkeypatch.setattr(checking, "inspect_node", lambda _: COMPLETE)
    monkeypatch.setattr(checking, "smoke_check", smoke_check)
    command = ["check", "-c", str(DEMO), f"run.folder={tmp_path}"]
    assert main([*command, "dataset=/nowhere/problems.jsonl"]) == 1
    printed = capsys.readouterr()
    assert "FAIL: run: data: data.dataset=/nowhere/problems.jsonl" in printed.out
    assert "the smoke run is skipped" in printed.err
    assert not started
    assert main([*command, "--no-smoke"]) == 0
    assert not started
    assert main(command) == 0
    assert started
    assert main(["check", "--address", "http://127.0.0.1:9"]) == 2


def test_a_run_warns_of_little_shared_memory_if_several_processes_need_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        {"NodeID": name, "NodeManagerAddress": name, "Alive": name != "gone", "Resources": {"CPU": 8.0}}
        for name in ("large", "small", "gone")
    ]
    cluster = Cluster(resources={"CPU": 16.0}, nodes=nodes, logs=tmp_path)
    checked: list[Any] = []

    def sizes(nodes: Sequence[Any], _function: object) -> list[int]:
        checked.extend(node["NodeID"] for node in nodes)
        return [16 << 30, 64 << 20][: len(nodes)]

    monkeypatch.setattr(preflight, "ask_nodes", sizes)
    preflight.place_run(demo(tmp_path), cluster, View())
    assert not checked
    preflight.place_run(demo(tmp_path, "learner.num_ranks=2"), cluster, View())
    assert checked == ["large", "small"]
    printed = capsys.readouterr().err
    assert printed.count("warning: ") == 1
    assert "small: /dev/shm has 0.062 GiB, and 2 GiB are needed: start the container with --shm-size=16g" in printed


@pytest.mark.long
@pytest.mark.slow
def test_the_demo_passes_its_checks_and_its_smoke_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("COLUMNS", "200")  # no text of the table is wrapped
    assert main(["check", "-c", str(DEMO), f"run.folder={tmp_path}", "group_size=4"]) == 0
    printed = capsys.readouterr().out
    assert "4 completions, reward" in printed
    assert "sampled, graded, learned, published, verified, saved" in printed
    assert list(tmp_path.iterdir()) == []
