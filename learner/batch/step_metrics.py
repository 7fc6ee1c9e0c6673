"""Metrics of a step, reduced from those of its micro-batches on all ranks. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from learner.batch.policy_ratio import RatioStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchMetrics:
    """Metrics of some micro-batches of a step; lists have one entry per micro-batch."""

    losses: list[float]  # contribution to the step's loss
    token_shares: list[float]  # share of the step's tokens that enter the loss
    row_shares: list[float]  # share of the step's rows
    num_completions: int
    trl_metrics: Mapping[str, list[float]]  # TRL's own, by name
    ratio: RatioStatistics


def concatenate(parts: Sequence[MicroBatchMetrics]) -> MicroBatchMetrics:
    """Concatenate the metrics of several ranks, in the order of the ranks."""
    names = dict.fromkeys(name for part in parts for name in part.trl_metrics)
    return MicroBatchMetrics(
        losses=[loss for part in parts for loss in part.losses],
        token_shares=[share for part in parts for share in part.token_shares],
        row_shares=[share for part in parts for share in part.row_shares],
        num_completions=sum(part.num_completions for part in parts),
        trl_metrics={name: [value for part in parts for value in part.trl_metrics.get(name, [])] for name in names},
        ratio=RatioStatistics.total([part.ratio for part in parts]),
    )


def reduce_to_step(metrics: MicroBatchMetrics, *, ratio_per_token: bool) -> dict[str, list[float]]:
    """Reduce TRL's metrics to one value each for the step: minimum, maximum, or mean over tokens or completions.

    ``ratio_per_token``: metrics of the ratio are means over tokens, as KL divergence and entropy always are.
    """
    reduced = {}
    for name, values in metrics.trl_metrics.items():
        by_token = name in ("kl", "entropy") or ratio_per_token
        if name.endswith("_min"):
            reduced[name] = [min(values)]
        elif name.endswith("_max"):
            reduced[name] = [max(values)]
        elif len(values) == len(metrics.losses):
            shares = metrics.token_shares if by_token else metrics.row_shares
            reduced[name] = [sum(share * value for share, value in zip(shares, values, strict=True))]
        else:
            reduced[name] = values
    return reduced
