"""A short real run whose parts are killed ends like an undisturbed run: no completion is lost or trained twice."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset
import pytest

ROOT = Path(__file__).parent.parent
CARAVAN = Path(sys.executable).parent / "caravan"
# A separate Ray, whatever else runs on this machine.
ENVIRONMENT = {**os.environ, "RAY_ADDRESS": "local", "HF_HUB_OFFLINE": "1"}

SEED = 1
NUM_STEPS = 8
GROUPS_PER_STEP = 4
GROUP_SIZE = 4
MAX_STALENESS = 1
# Process titles of the parts.
PARTS = {"sampler engine": "VLLM::EngineCore", "grader": "ray::GraderActor", "learner": "ray::LearnerActor"}

pytestmark = pytest.mark.long


def command(runs: Path, name: str) -> list[str]:
    settings = {
        "run.folder": runs,
        "run.name": name,
        "groups_per_step": GROUPS_PER_STEP,
        "group_size": GROUP_SIZE,
        "max_staleness": MAX_STALENESS,
        "max_steps": NUM_STEPS,
        "max_completion_tokens": 48,
        "save_every_steps": 3,
        "evaluation.num_problems": 0,
        "drop_unpassable": "false",
    }
    return [
        str(CARAVAN),
        "train",
        "-c",
        str(ROOT / "configs/demo.yaml"),
        *(f"{key}={value}" for key, value in settings.items()),
    ]


@dataclass
class Run:
    """A running ``caravan train``."""

    folder: Path
    process: subprocess.Popen[str]

    def descendants(self) -> list[psutil.Process]:
        children: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return children

    def num_steps(self) -> int:
        metrics = self.folder / "metrics.jsonl"
        return metrics.read_text().count("\n") if metrics.exists() else 0

    def wait_for_step(self, step: int, *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.num_steps() < step:
            assert self.process.poll() is None, f"the run ended early: {self.process.communicate()[1]}"
            assert time.monotonic() < deadline, f"step {step} was not done within {seconds:g} s"
            time.sleep(0.05)

    def kill(self, part: str, source: random.Random) -> None:
        """Kill (-9) one process of a part at any point of its work; wait for the process if it is just starting."""
        deadline = time.monotonic() + 120
        while not (found := [process for process in self.descendants() if title(process).startswith(PARTS[part])]):
            assert time.monotonic() < deadline, f"no {part} among {[title(process) for process in self.descendants()]}"
            time.sleep(0.05)
        source.choice(sorted(found, key=lambda process: process.pid)).kill()

    def finish(self, *, seconds: float) -> str:
        """Wait for the run's end, check its exit status and that it left no process; return its standard error."""
        descendants = self.descendants()
        _, errors = self.process.communicate(timeout=seconds)
        assert self.process.returncode == 0, errors
        _, alive = psutil.wait_procs(descendants, timeout=120)
        assert not alive, [title(process) for process in alive]
        return errors


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # ended meanwhile
        return ""


def start(runs: Path, name: str) -> Run:
    process = subprocess.Popen(command(runs, name), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT)
    return Run(runs / name, process)


def ledger(folder: Path) -> list[dict[str, Any]]:
    columns = ["group_id", "completion_id", "step", "fate", "policy_version"]
    table = pyarrow.dataset.dataset(folder / "rollouts", format="parquet").to_table(columns=columns)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def outcomes_by_position(rows: list[dict[str, object]]) -> Mapping[int, Counter[str]]:
    """Return the outcomes of the completions by position in the problem stream; stale groups are sampled again."""
    found: dict[int, Counter[str]] = {}
    for row in rows:
        if row["fate"] != "stale":
            position = int(str(row["group_id"]).removeprefix("g").partition("-")[0])
            found.setdefault(position, Counter())[str(row["fate"])] += 1
    return found


def test_a_run_whose_parts_are_killed_ends_like_an_undisturbed_run(tmp_path: Path) -> None:
    disturbed = start(tmp_path, "disturbed")
    try:
        source = random.Random(SEED)
        for part in source.sample(list(PARTS), len(PARTS)):
            disturbed.wait_for_step(disturbed.num_steps() + 1, seconds=240)
            time.sleep(source.uniform(0.0, 2.0))
            disturbed.kill(part, source)
        disturbed.finish(seconds=240)
    finally:
        disturbed.process.kill()

    rows = ledger(disturbed.folder)
    # As in an undisturbed run (tests/test_run.py): nothing is filtered, and the whole group of every position is trained once.
    assert outcomes_by_position(rows) == {n: Counter(trained=GROUP_SIZE) for n in range(NUM_STEPS * GROUPS_PER_STEP)}
    assert max(Counter(row["completion_id"] for row in rows).values()) == 1
    steps = [json.loads(line)["step"] for line in (disturbed.folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, NUM_STEPS + 1))
    for row in rows:
        if row["fate"] == "trained":
            assert 0 <= int(row["step"]) - 1 - int(row["policy_version"]) <= MAX_STALENESS, row
