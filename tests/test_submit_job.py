"""Jobs on a real Ray head (``ray start --head``): one is followed to its end, another is stopped."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.ray_head import BIN, Head, started_head

SMALL = (
    "groups_per_step=4",
    "group_size=4",
    "max_completion_tokens=48",
    "evaluation.num_problems=0",
    "drop_unpassable=false",
)
FAKE_SECRETS = {"HF_TOKEN": "hf_ThisIsNoToken0123456789", "WANDB_API_KEY": "wandbThisIsNoKey0123456789"}
PARTS = ("ray::Sampler", "ray::GraderActor", "ray::LearnerActor", "VLLM::EngineCore", "caravan train")
RUN_SECONDS = 420.0  # for machines that are busy with other work

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with started_head({"HF_HUB_OFFLINE": "1", **FAKE_SECRETS}) as started:
        yield started


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def steps(run: Path) -> list[int]:
    metrics = run / "metrics.jsonl"
    return [json.loads(line)["step"] for line in metrics.read_text().splitlines()] if metrics.exists() else []


def test_a_run_is_checked_submitted_followed_and_leaves_its_results(head: Head, runs: Path) -> None:
    caravan = str(BIN / "caravan")
    settings = (f"run.folder={runs}", "run.name=whole", "max_steps=2", *SMALL)
    done = head.run(caravan, "submit", "-c", "configs/demo.yaml", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Placement" in done.stdout
    assert "step 2/2" in done.stdout
    assert steps(runs / "whole") == [1, 2]
    assert (runs / "whole/checkpoints/checkpoint-2").is_dir()
    assert (runs / "whole/adapter/adapter_model.safetensors").is_file()
    assert head.token not in done.stdout + done.stderr


def test_fine_tuning_is_submitted_and_leaves_a_model(head: Head, runs: Path) -> None:
    out, address = runs / "warm", head.environment["RAY_API_SERVER_ADDRESS"]
    options = ("--out", str(out), "--address", address, "--steps", "2", "--batch-size", "4")
    done = head.run(str(BIN / "caravan"), "sft", "-c", "configs/demo.yaml", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 2/2" in done.stdout
    assert (out / "config.json").is_file()
    refused = head.run(str(BIN / "caravan"), "sft", "-c", "configs/demo.yaml", *options, "learner.gpus=1")
    assert refused.returncode == 1
    assert "no node of the cluster has the learner.cpus=0.5 and learner.gpus=1" in refused.stderr
    assert "(nodes: 2 CPU, 0 GPU)" in refused.stderr


def test_a_missing_model_and_dataset_are_reported_before_a_run_is_submitted(head: Head, runs: Path) -> None:
    done = head.run(
        *(str(BIN / "caravan"), "submit", "-c", "configs/demo.yaml", f"run.folder={runs}"),
        *("model.path=/nowhere/model", "dataset=/nowhere/problems.jsonl"),
    )
    assert done.returncode == 1
    assert "the cluster cannot hold this run" in done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAIL: ")]
    assert any("model.path=/nowhere/model: there is no such folder" in line for line in failed)
    assert any("data.dataset=/nowhere/problems.jsonl" in line for line in failed)
    assert "Traceback" not in done.stderr + done.stdout


def test_a_cluster_is_checked_with_one_step_of_the_run(head: Head, runs: Path) -> None:
    address = head.environment["RAY_API_SERVER_ADDRESS"]
    settings = (f"run.folder={runs / 'checked'}", "group_size=4")
    done = head.run(str(BIN / "caravan"), "check", "-c", "configs/demo.yaml", *settings, "--address", address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "smoke run: one step" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if "│ smoke run │" in line]
    assert row.endswith("│ ok │")
    assert not (runs / "checked").exists()


def test_a_run_that_does_not_fit_is_refused_with_the_numbers(head: Head, runs: Path) -> None:
    settings = (f"run.folder={runs}", "num_samplers=99")
    done = head.run(str(BIN / "caravan"), "submit", "-c", "configs/demo.yaml", *settings)
    assert done.returncode == 1
    assert "99 samplers x 0.5" in done.stdout
    assert "the cluster has 2" in done.stdout


def test_a_missing_token_is_reported(head: Head) -> None:
    without = {name: value for name, value in head.environment.items() if not name.startswith("RAY_AUTH")}
    client = Head(head.process, {**without, "HOME": str(head.folder)}, folder=head.folder, token="")
    done = client.run(str(BIN / "caravan"), "submit", "-c", "configs/demo.yaml", "run.folder=/tmp/runs")
    assert done.returncode == 1
    assert "requires its token" in done.stderr


def test_a_plain_job_that_is_stopped_saves_a_checkpoint_and_leaves_no_process(head: Head, runs: Path) -> None:
    ray, job, run = str(BIN / "ray"), "stopped-in-the-middle", runs / "stopped"
    settings = (f"run.folder={runs}", "run.name=stopped", "max_steps=500", "save_every_steps=400", *SMALL)
    options = ("--no-wait", "--submission-id", job, "--working-dir", ".", "--runtime-env", "ray_job.yaml")
    submitted = head.run(ray, "job", "submit", *options, "--", "caravan", "train", "-c", "configs/demo.yaml", *settings)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    deadline = time.monotonic() + RUN_SECONDS
    while len(steps(run)) < 2:
        assert time.monotonic() < deadline, "two steps took too long"
        time.sleep(0.5)
    _assert_graders_have_no_secret(head)
    stopped = head.run(ray, "job", "stop", job)
    assert "was stopped" in stopped.stdout + stopped.stderr
    (checkpoint,) = (run / "checkpoints").glob("checkpoint-*")
    assert checkpoint.name == f"checkpoint-{steps(run)[-1]}"
    deadline = time.monotonic() + 60
    while (alive := [each.cmdline() for each in head.processes(*PARTS)]) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not alive


def _assert_graders_have_no_secret(head: Head) -> None:
    graders = head.processes("ray::GraderActor")
    assert graders
    assert not [name for grader in graders for name in FAKE_SECRETS if grader.environ().get(name)]
    programs = [program for grader in graders for program in grader.children(recursive=True)]
    assert programs
    for program in programs:
        # If Ray does not run as root, the kernel hides the environment of a sandboxed program even from its own user.
        with suppress(psutil.Error):
            assert not {*FAKE_SECRETS, "RAY_AUTH_TOKEN"} & set(program.environ())


def test_no_log_and_no_ledger_holds_a_secret(head: Head, runs: Path) -> None:
    hidden = [value.encode() for value in (*FAKE_SECRETS.values(), head.token)]
    read = 0
    for place in (runs, *head.folder.glob("session_2*")):
        for path in place.rglob("*"):
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                assert not [secret for secret in hidden if secret in content], path
                read += 1
    assert read > 20
