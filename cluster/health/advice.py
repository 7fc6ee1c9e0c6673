"""Recommended actions that several health rules share, with the run's own settings if they are known.

The amounts are those of the two training analyses (docs/health.md).
"""

import math
from fractions import Fraction

from cluster.health.history import History

PLAN_B = (
    "set schedule=staged-rewards, measure the base model (below 20%: a stronger model, or easier problems), and read the "
    "completions"
)
BE_CONSISTENT = "learner.reward_threshold=0.2; if that does not help, learner.train_top_k=1 (best-of-n training)"
HIGH_ENTROPY = 0.25

GROUP_GROWTH = Fraction(4, 3)  # first analysis, Action 2: 6 -> 8
LEARNING_RATE_GROWTH = 1.6  # first analysis, Action 3: 5e-6 -> 8e-6
REBALANCED_LEARNING_RATE_GROWTH = 1.4  # second analysis, Priority 2
TEMPERATURE_STEP = 0.2  # first analysis, Priority 1
REBALANCED_TEMPERATURE_STEP = 0.1  # second analysis, Priority 5


def raise_diversity(history: History) -> str:
    """Return the advice for completions that are too similar; without a higher temperature if entropy is already high."""
    more = f"raise {scaled(history, 'rollout.group_size', GROUP_GROWTH)}"
    entropy = history.level("entropy")
    if entropy is not None and entropy > HIGH_ENTROPY:
        return more
    return f"{more} and {added(history, 'rollout.temperature', TEMPERATURE_STEP)}"


def learn_faster(history: History) -> str:
    """Return the advice for rewards that are too low."""
    return (
        f"raise {scaled(history, 'learner.learning_rate', LEARNING_RATE_GROWTH)} and, if answers are truncated, "
        f"{scaled(history, 'rollout.max_completion_tokens', 1.2)}"
    )


def rebalance(history: History) -> str:
    """Return the advice for rewards that fall while the loss falls."""
    rate = scaled(history, "learner.learning_rate", REBALANCED_LEARNING_RATE_GROWTH)
    temperature = added(history, "rollout.temperature", REBALANCED_TEMPERATURE_STEP)
    return f"set learner.reward_weight=2.0, or learner.kl_coefficient=0.05; raise {rate} and {temperature}"


def scaled(history: History, key: str, factor: float | Fraction) -> str:
    """Return a setting with its value now and ``factor`` times that (rounded up for whole numbers)."""
    now = history.settings.get(key)
    if now is None:
        return f"{key} x {float(factor):.2g}"
    raised = math.ceil(now * factor - 1e-9) if isinstance(now, int) else now * float(factor)
    return f"{key} ({now:g} -> {raised:.3g})" if isinstance(now, float) else f"{key} ({now} -> {raised})"


def added(history: History, key: str, amount: float) -> str:
    """Return a setting with its value now and ``amount`` more."""
    now = history.settings.get(key)
    return f"{key} by {amount:g}" if now is None else f"{key} ({now:g} -> {now + amount:.3g})"
