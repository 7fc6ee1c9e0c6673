"""Advantages of completions from the rewards of their groups."""

import math
from collections.abc import Sequence

from learner.settings import ScaleRewards

EPSILON = 1e-4  # added to the standard deviation, as in TRL, against division by almost 0

Rewards = Sequence[float | None]  # [G]; None for an ungradable completion


def group_advantages(groups: Sequence[Rewards], *, scale: ScaleRewards) -> list[list[float]]:
    """Return the advantage of every completion: its reward minus the mean of its group, divided by a standard deviation.

    ``groups`` holds the rewards of one step, ``[num_groups][G]``; groups may differ in size. A reward of None is excluded from
    mean and deviation, and its advantage is 0. ``scale="group"`` is GRPO
    (Shao et al. 2024, arXiv:2402.03300), ``"none"`` is Dr. GRPO (Liu et al. 2025, arXiv:2503.20783), ``"batch"`` divides by
    the deviation of all rewards of the step. Deviations are of the sample (n - 1), as in TRL.
    """
    step_deviation = _deviation([reward for rewards in groups for reward in _graded(rewards)])
    return [_advantages(rewards, scale, step_deviation) for rewards in groups]


def _advantages(rewards: Rewards, scale: ScaleRewards, step_deviation: float) -> list[float]:
    graded = _graded(rewards)
    if not graded:
        return [0.0] * len(rewards)
    baseline = math.fsum(graded) / len(graded)
    divisor = {"group": _deviation(graded) + EPSILON, "batch": step_deviation + EPSILON, "none": 1.0}[scale]
    return [0.0 if reward is None else (reward - baseline) / divisor for reward in rewards]


def _graded(rewards: Rewards) -> list[float]:
    return [reward for reward in rewards if reward is not None]


def _deviation(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
