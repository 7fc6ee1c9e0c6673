"""What the micro-batches of a step measured, on whichever rank, as measures of the step. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from learner.batch.policy_ratio import RatioStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Of some of a step's micro-batches; lists have an entry for each."""

    losses: list[float]  # what each adds to the step's
    token_shares: list[float]  # each one's share of the step's tokens that enter the loss
    row_shares: list[float]  # and of its rows
    num_completions: int
    of_trl: Mapping[str, list[float]]  # TRL's own, by name
    ratio: RatioStatistics


def joined(parts: Sequence[Measures]) -> Measures:
    """Those of several ranks as one, in the order of the ranks."""
    names = dict.fromkeys(name for part in parts for name in part.of_trl)
    return Measures(
        losses=[loss for part in parts for loss in part.losses],
        token_shares=[share for part in parts for share in part.token_shares],
        row_shares=[share for part in parts for share in part.row_shares],
        num_completions=sum(part.num_completions for part in parts),
        of_trl={name: [value for part in parts for value in part.of_trl.get(name, [])] for name in names},
        ratio=RatioStatistics.joined([part.ratio for part in parts]),
    )


def of_the_step(measures: Measures, *, ratio_of_tokens: bool) -> dict[str, list[float]]:
    """TRL's measures with one value each, that of the step: a minimum, a maximum, or a mean over tokens or completions.

    ``ratio_of_tokens``: what is measured of the ratio is a mean over tokens, as the divergence and the entropy always are.
    """
    found = {}
    for name, values in measures.of_trl.items():
        by_token = name in ("kl", "entropy") or ratio_of_tokens
        if name.endswith("_min"):
            found[name] = [min(values)]
        elif name.endswith("_max"):
            found[name] = [max(values)]
        elif len(values) == len(measures.losses):
            shares = measures.token_shares if by_token else measures.row_shares
            found[name] = [sum(share * value for share, value in zip(shares, values, strict=True))]
        else:
            found[name] = values
    return found
