"""A short real run whose number of samplers changes, and which is interrupted and resumed: each completion ends once."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.dataset
import pytest

ROOT = Path(__file__).parent.parent
CARAVAN = Path(sys.executable).parent / "caravan"
# A separate Ray, whatever else runs on this machine.
ENVIRONMENT = {**os.environ, "RAY_ADDRESS": "local", "HF_HUB_OFFLINE": "1"}
MAX_STALENESS = 1
SETTINGS = {
    "run.name": "scaled",
    "groups_per_step": 4,
    "group_size": 4,
    "max_staleness": MAX_STALENESS,
    "max_steps": 1000,
    "max_completion_tokens": 48,
    "evaluation.num_problems": 0,
    "drop_unpassable": "false",
}

pytestmark = pytest.mark.long


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def scale(run: Path, *settings: str) -> str:
    done = subprocess.run(
        [str(CARAVAN), "scale", str(run), *settings], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def start(command: list[str], printed: Path) -> "subprocess.Popen[bytes]":
    with printed.open("wb") as stream:
        return subprocess.Popen(command, stderr=stream, env=ENVIRONMENT, cwd=ROOT)


def interrupt(process: "subprocess.Popen[bytes]", printed: Path) -> str:
    """Press Ctrl-C, and check that the run ends cleanly and leaves no process; returns what it printed."""
    descendants = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=240)
    assert process.returncode == 130, printed.read_text()
    _, alive = psutil.wait_procs(descendants, timeout=120)
    assert not alive, alive
    return printed.read_text()


@pytest.mark.timeout(900)  # several starts, perhaps while other tests run
def test_samplers_are_added_and_removed_ctrl_c_saves_a_checkpoint_and_the_same_command_resumes(tmp_path: Path) -> None:
    command = [str(CARAVAN), "train", "-c", str(ROOT / "configs/demo.yaml"), f"run.folder={tmp_path}"]
    command += [f"{key}={value}" for key, value in SETTINGS.items()]
    run, printed = tmp_path / "scaled", tmp_path / "printed"
    process = start(command, printed)

    def until(condition: Callable[[], bool], event: str) -> None:
        deadline = time.monotonic() + 240
        while not condition():
            assert process.poll() is None, f"the run ended early: {printed.read_text()}"
            assert time.monotonic() < deadline, f"not within 240 s: {event}"
            time.sleep(0.1)

    def num_samplers() -> int:
        return int(str((rows(run / "metrics.jsonl") or [{"num_samplers": 0}])[-1]["num_samplers"]).partition(".")[0])

    def receivers() -> set[str]:
        """Return the samplers that received the newest policy."""
        seconds = (rows(run / "publishes.jsonl") or [{"seconds_by_sampler": {}}])[-1]["seconds_by_sampler"]
        assert isinstance(seconds, dict)
        return set(seconds)

    def num_engines() -> int:
        titles = []
        for one in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # ended meanwhile
                titles.append(" ".join(one.cmdline()))
        return sum(title.startswith("VLLM::EngineCore") for title in titles)

    try:
        until(lambda: num_samplers() == 1, "the first step")
        assert scale(run, "samplers=2").startswith("scaling 1 -> 2 samplers")
        until(lambda: num_samplers() == 2, "a step with two samplers")
        until(lambda: len(receivers()) == 2, "a policy that both receive")
        assert scale(run, "samplers=1").startswith("scaling 2 -> 1 samplers")
        until(lambda: num_samplers() == 1, "a step with one sampler again")
        until(lambda: len(receivers()) == 1, "a policy that one receives")
        until(lambda: num_engines() == 1, "the end of the other engine")
        until(lambda: ": drained and stopped" in printed.read_text(), "the line about its stop")
        num_steps = len(rows(run / "metrics.jsonl"))
        until(lambda: len(rows(run / "metrics.jsonl")) > num_steps + 1, "steps without it")
        output = interrupt(process, printed)
    finally:
        process.kill()
    stopped_at = rows(run / "metrics.jsonl")[-1]["step"]
    assert f"stopped after step {stopped_at}" in output

    # The new sampler verified the policy published before its start, and both verified every later one, with tiny gaps.
    assert "sampler 1: ready after" in output and ", verified on policy " in output
    assert all(float(str(row["canary_gap_max"])) < 1e-3 for row in rows(run / "publishes.jsonl"))

    columns = ["group_id", "completion_id", "step", "fate", "policy_version"]
    ledger = pyarrow.dataset.dataset(run / "rollouts", format="parquet").to_table(columns=columns).to_pylist()
    assert max(Counter(row["completion_id"] for row in ledger).values()) == 1
    metrics = rows(run / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(1, len(metrics) + 1))
    outcomes = Counter(row["fate"] for row in ledger)
    last = metrics[-1]
    assert outcomes["trained"] == last["num_trained_so_far"] == len(metrics) * 4 * 4
    assert outcomes["failed"] == last["num_failed_so_far"] == 0
    ended = sum(float(str(last[f"num_{outcome}_so_far"])) for outcome in ("trained", "filtered", "stale", "failed"))
    assert last["num_asked_so_far"] == ended + float(str(last["num_under_way"]))
    for row in ledger:
        if row["fate"] == "trained":
            assert 0 <= row["step"] - 1 - row["policy_version"] <= MAX_STALENESS, row

    process = start(command, printed)
    try:
        until(lambda: len(rows(run / "metrics.jsonl")) > int(str(stopped_at)) + 1, "two more steps")
        output = interrupt(process, printed)
    finally:
        process.kill()
    assert f"resuming from the checkpoint of step {stopped_at}" in output
    steps = [row["step"] for row in rows(run / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))
    assert len((run / "learning.log").read_text().splitlines()) == len(steps)
