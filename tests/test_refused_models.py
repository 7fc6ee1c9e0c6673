"""Models that sampler and learner compute differently are refused before anything is sampled for training."""

from pathlib import Path

import pytest

from tests.model_families import make_model
from tests.test_run import caravan, command

pytestmark = pytest.mark.long


def test_a_model_that_vllm_computes_differently_is_refused_before_it_is_evaluated_or_trained(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "gpt_neox")
    done = caravan(command(tmp_path / "runs", f"model.path={model}", "run.name=neox", "max_steps=1"))
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "disagree about model" in line]
    assert "nats per token before any training, and 0.001 is allowed (rollout.weight_sync_tolerance)" in line
    assert "held-out problems before training" not in done.stderr
    assert not (tmp_path / "runs" / "neox").exists()
