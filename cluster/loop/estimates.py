"""Estimates from few samples: pass@k, confidence intervals and permutation tests. Pure functions."""

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 10_000  # accurate to about 1% of the width of an interval
_SEED = 0  # the same values give the same interval


def pass_at_k(num_sampled: int, num_passed: int, k: int) -> float:
    """Return the unbiased estimate of pass@k from ``num_sampled >= k`` completions (Chen et al. 2021, eq. 1)."""
    if k > num_sampled:
        raise ValueError(f"pass@{k} needs at least {k} completions, not {num_sampled}")
    return 1 - math.comb(num_sampled - num_passed, k) / math.comb(num_sampled, k)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% bootstrap interval of the mean of independent values (Efron 1979)."""
    drawn = np.random.default_rng(_SEED).integers(len(values), size=(RESAMPLES, len(values)))
    means = np.asarray(values, dtype=float)[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def interval_of_shares(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of the mean of shares; exact if all are 0 or all 1 (Clopper and Pearson 1934)."""
    rest = ((1 - CONFIDENCE) / 2) ** (1 / len(values))
    if all(value == 0 for value in values):
        return 0.0, 1 - rest
    if all(value == 1 for value in values):
        return rest, 1.0
    return interval(values)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of a mean difference by the sign-flip test (Fisher 1935).

    By random flips; at least ``1 / (RESAMPLES + 1)``.
    """
    values = np.asarray(differences, dtype=float)
    signs = np.random.default_rng(_SEED).choice((-1.0, 1.0), size=(RESAMPLES, len(values)))
    # Equal sums may differ in the last bit, depending on the order of summation.
    as_far = np.abs(signs @ values) >= abs(values.sum()) - 1e-9
    return float((as_far.sum() + 1) / (RESAMPLES + 1))
