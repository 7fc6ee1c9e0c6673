"""Estimates from few samples: pass@k, and how far chance alone could have moved a mean. Pure."""

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000  # the ends of an interval, and p-values, are good to about 0.01 of their spread
_SEED = 0  # the same figures give the same interval


def pass_at_k(num_sampled: int, num_passed: int, k: int) -> float:
    """The chance that one of ``k`` completions passes, without bias, from ``num_sampled >= k`` (Chen et al. 2021, eq. 1)."""
    if k > num_sampled:
        raise ValueError(f"pass@{k} cannot be told from {num_sampled} completions")
    return 1 - math.comb(num_sampled - num_passed, k) / math.comb(num_sampled, k)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the 95% interval of the mean: the bootstrap's percentiles, the values taken as independent (Efron 1979)."""
    drawn = np.random.default_rng(_SEED).integers(len(values), size=(RESAMPLES, len(values)))
    means = np.asarray(values, dtype=float)[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def interval_of_shares(values: Sequence[float]) -> tuple[float, float]:
    """The same of values between 0 and 1; where all are 0 or all 1, the exact interval (Clopper and Pearson 1934)."""
    rest = ((1 - CONFIDENCE) / 2) ** (1 / len(values))
    if all(value == 0 for value in values):
        return 0.0, 1 - rest
    if all(value == 1 for value in values):
        return rest, 1.0
    return interval(values)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Chance of a mean difference at least as far from 0, were each pair as likely to differ the other way round (Fisher 1935).

    Two-sided, by random flips; at least ``1 / (RESAMPLES + 1)``.
    """
    values = np.asarray(differences, dtype=float)
    signs = np.random.default_rng(_SEED).choice((-1.0, 1.0), size=(RESAMPLES, len(values)))
    # Equal sums may differ in the last bit, by the order in which they are summed.
    as_far = np.abs(signs @ values) >= abs(values.sum()) - 1e-9
    return float((as_far.sum() + 1) / (RESAMPLES + 1))
