"""Metrics of the micro-batches of two ranks, compared with means and extremes that are computed by hand."""

import pytest
import torch

from learner.batch.policy_ratio import RatioStatistics
from learner.batch.step_metrics import MicroBatchMetrics, concatenate, reduce_to_step


def ratio(*differences: float) -> RatioStatistics:
    statistics = RatioStatistics()
    trainer = torch.tensor([differences])
    statistics.add(trainer, torch.zeros_like(trainer), torch.ones_like(trainer))
    return statistics


FIRST = MicroBatchMetrics(
    losses=[0.1, 0.2],
    token_shares=[0.5, 0.2],
    row_shares=[0.25, 0.5],
    num_completions=3,
    trl_metrics={
        "kl": [1.0, 2.0],
        "clip_ratio/high_max": [0.3, 0.1],
        "clip_ratio/low_min": [0.2, 0.1],
        "clip_ratio/x": [1.0, 0.0],
    },
    ratio=ratio(0.5, -0.25),
)
SECOND = MicroBatchMetrics(
    losses=[0.4],
    token_shares=[0.3],
    row_shares=[0.25],
    num_completions=1,
    trl_metrics={"kl": [4.0], "clip_ratio/high_max": [0.9], "clip_ratio/low_min": [0.05], "clip_ratio/x": [1.0]},
    ratio=ratio(1.0),
)
NOTHING = MicroBatchMetrics(
    losses=[], token_shares=[], row_shares=[], num_completions=0, trl_metrics={}, ratio=RatioStatistics()
)


@pytest.mark.parametrize(
    "parts", [[FIRST, SECOND], [FIRST, NOTHING, SECOND]], ids=["two ranks", "a rank without micro-batches"]
)
def test_means_are_weighted_by_tokens_or_rows_of_the_step_and_extremes_are_over_all_ranks(
    parts: list[MicroBatchMetrics],
) -> None:
    together = concatenate(parts)
    assert sum(together.losses) == pytest.approx(0.7)
    assert together.num_completions == 4
    by_row = reduce_to_step(together, ratio_per_token=False)
    assert by_row == {
        "kl": [pytest.approx(0.5 * 1 + 0.2 * 2 + 0.3 * 4)],  # by token in any case
        "clip_ratio/high_max": [0.9],
        "clip_ratio/low_min": [0.05],
        "clip_ratio/x": [pytest.approx(0.25 + 0.25)],
    }
    assert reduce_to_step(together, ratio_per_token=True)["clip_ratio/x"] == [pytest.approx(0.5 + 0.3)]
    assert together.ratio.metrics() == pytest.approx(ratio(0.5, -0.25, 1.0).metrics())


def test_a_step_without_micro_batches_has_no_metrics() -> None:
    together = concatenate([NOTHING, NOTHING])
    assert reduce_to_step(together, ratio_per_token=True) == {}
    assert together.ratio.metrics() == {}
