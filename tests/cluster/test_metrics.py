import math
from dataclasses import replace

import pytest

from cluster.buffer import Dropped
from cluster.metrics import group_metrics, hop_seconds, learning_log_line, step_metrics, wasted_tokens
from cluster.progress import Progress
from cluster.types import Fate, Hops, StepReport
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
    groups = [group([0.0, 1.0], version=2), group([0.0, 1.0], version=1)]
    metrics = step_metrics(groups, [], report, Progress(), {"step_seconds": 2.0})
    assert (metrics["mean_staleness"], metrics["max_staleness"]) == (0.5, 1)
    assert metrics["loss"] == 0.1
    assert metrics["tokens_per_second"] == 8.0


def test_tokens_that_were_sampled_and_not_trained_are_counted_by_fate() -> None:
    stale = Dropped(group=group([0.0]), group_size=4, fate=Fate.STALE, reason="stale")
    silent = Dropped(group=group([0.0, 0.0]), group_size=2, fate=Fate.FILTERED, reason="no_signal")
    assert wasted_tokens([stale, silent, silent]) == {
        "wasted_tokens_filtered": 16.0,
        "wasted_tokens_stale": 4.0,
        "wasted_tokens_failed": 0.0,
    }
    metrics = step_metrics(
        [group([0.0, 1.0])], [stale], StepReport(step=1, metrics={}), Progress(), {"step_seconds": 1}
    )
    assert metrics["frac_tokens_wasted"] == pytest.approx(4 / 12)


def test_the_time_to_reward_is_taken_from_the_completions_that_have_one() -> None:
    hops = (
        Hops(asked=10, sampled=12, graded=13),
        Hops(asked=10, sampled=14, graded=15),
        Hops(asked=10, sampled=99, graded=None),
    )
    seconds = hop_seconds([replace(group([0.0, 1.0, None]), hops=hops)])
    assert seconds == {
        "sampling_seconds": 3,
        "grading_seconds": 1,
        "time_to_reward_seconds": 4,
        "time_to_reward_p95_seconds": 5,
    }
