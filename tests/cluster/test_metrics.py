import math

import pytest

from cluster.metrics import group_metrics, learning_log_line, step_metrics
from cluster.types import StepReport
from tests.cluster.made import group


def test_rewards_are_averaged_over_graded_completions_only() -> None:
    metrics = group_metrics([group([1.0, 0.0, None]), group([0.5, 0.5])])
    assert metrics["reward"] == pytest.approx(0.5)
    assert metrics["num_ungradable"] == 1
    assert metrics["frac_zero_std"] == 0.5
    assert metrics["best_of_n"] == pytest.approx(0.75)
    assert metrics["reward_std"] == pytest.approx(math.sqrt(0.5) / 2)


def test_a_line_of_the_learning_log_has_the_analyses_format() -> None:
    metrics = {
        "loss": -0.0469,
        "grad_norm": 0.0838,
        "learning_rate": 3.58e-6,
        "reward": 0.102,
        "reward_std": 0.077,
        "reward_batch_std": 0.078,
        "entropy": 0.155,
        "frac_zero_std": 0.0,
    }
    assert learning_log_line(0.28, metrics) == (
        "[Epoch 0.28]  loss=-0.0469  grad=0.0838  lr=3.58e-06  reward=0.102±0.077  "
        "syntax_rew=0.102±0.078  entropy=0.155  frac_zero_std=0.00"
    )


def test_staleness_is_counted_from_the_version_that_the_step_started_from() -> None:
    report = StepReport(step=3, metrics={"loss": 0.1})
    metrics = step_metrics([group([0.0, 1.0], version=2), group([0.0, 1.0], version=1)], report, {"learn_seconds": 2.0})
    assert metrics["mean_staleness"] == 0.5
    assert metrics["loss"] == 0.1
    assert metrics["tokens_per_second"] == 8.0
