"""A whole run that trains all weights: killed, resumed, replayed, exported and loaded by transformers alone."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.cluster.placement.test_plan import FULL_DEMO
from tests.test_run import CARAVAN, ENVIRONMENT, ROOT, command, completed, rows

pytestmark = pytest.mark.long

SETTINGS = (
    *FULL_DEMO,
    "learning_rate=1e-4",
    "max_steps=3",
    "max_staleness=0",
    "save_every_steps=1",
    "evaluation.num_problems=2",
    "kl_coefficient=0.01",
)
START_SECONDS = 400.0


def weights(folder: Path) -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = load_file(folder / "model.safetensors")
    return loaded


def bits(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def kill_after_first_checkpoint(train: list[str], run: Path) -> None:
    """Start a run in a session of its own, and kill all its processes once its first checkpoint is there."""
    process = subprocess.Popen(
        train, env=ENVIRONMENT, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + START_SECONDS
    while not (run / "progress" / "step-000001.json").exists():
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline, "the run has no checkpoint"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_run_of_all_weights_resumes_bit_for_bit_and_its_export_is_the_trained_model(tmp_path: Path) -> None:
    train = command(tmp_path, "run.name=uninterrupted", *SETTINGS)
    completed(train)
    uninterrupted = tmp_path / "uninterrupted"
    killed = tmp_path / "killed"
    kill_after_first_checkpoint(command(tmp_path, "run.name=killed", *SETTINGS), killed)
    done = sorted(path.name for path in (killed / "checkpoints").glob("checkpoint-*"))
    assert "checkpoint-3" not in done
    completed(command(tmp_path, "run.name=killed", *SETTINGS))
    assert bits(killed / "model") == bits(uninterrupted / "model")
    assert not (uninterrupted / "adapter").exists()

    for row in rows(uninterrupted / "metrics.jsonl"):
        assert row["sampling/sampling_logp_difference/mean"] < 1e-4
    assert rows(uninterrupted / "metrics.jsonl")[-1]["kl"] > 0
    assert [row["step"] for row in rows(uninterrupted / "publishes.jsonl")] == [1, 2, 3]

    # Every weight moved, and stays the same through the export.
    base, trained = weights(ROOT / "assets/tiny"), weights(uninterrupted / "model")
    assert base.keys() == trained.keys()
    assert not [name for name in base if bool((base[name] == trained[name]).all())]
    exported = tmp_path / "exported"
    printed = subprocess.run(
        [CARAVAN, "export", uninterrupted, exported, "--dtype", "float32"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert "written: 0 nats per token from the trained model" in printed.stdout, printed.stderr
    assert {path.name for path in exported.iterdir()} > {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    }
    exported_weights = weights(exported)
    assert all(bool((trained[name] == exported_weights[name]).all()) for name in trained)

    replayed = subprocess.run([CARAVAN, "replay", uninterrupted], env=ENVIRONMENT, capture_output=True, text=True)
    assert "after 3 steps the weights equal" in replayed.stdout, replayed.stderr
