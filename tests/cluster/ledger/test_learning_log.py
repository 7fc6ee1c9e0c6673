"""The file that both training analyses read."""

import math

import pytest

from cluster.ledger.learning_log import learning_log_line, read_learning_log
from tests.cluster.baseline_analyses import FIRST_LOG


def test_the_lines_of_the_first_analysis_are_read_and_written_back_unchanged() -> None:
    lines = FIRST_LOG.splitlines()
    metrics = list(read_learning_log(lines))
    assert [learning_log_line(row["epoch"], row) for row in metrics] == lines
    assert metrics[2]["loss"] == 0.0111
    assert metrics[4]["frac_zero_std"] == 0.5
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]


def test_missing_metrics_are_nan() -> None:
    line = learning_log_line(1.0, {"reward": 0.5})
    assert line == (
        "[Epoch 1.00]  loss=nan      grad=nan  lr=nan  reward=0.500±nan  syntax_rew=0.500±nan  entropy=nan  frac_zero_std=nan"
    )
    (metrics,) = read_learning_log([line])
    assert math.isnan(metrics["loss"])
    assert "entropy" not in metrics  # other trainers may not measure it


def test_other_lines_are_skipped() -> None:
    header = ["=" * 80, "GRPO Training - Learning Metrics Log", "", "[Epoch 0.28]  loss="]
    assert len(list(read_learning_log([*header, *FIRST_LOG.splitlines()[:2]]))) == 2


@pytest.mark.parametrize("epoch", ["nan", "inf", "1.2.3", "."])
def test_a_line_without_a_finite_epoch_is_skipped(epoch: str) -> None:
    line = learning_log_line(1.0, {"reward": 0.5})
    assert len(list(read_learning_log([line, line.replace("1.00", epoch, 1), line]))) == 2
