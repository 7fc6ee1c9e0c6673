"""Recommended actions that several health rules share, with the run's own settings if they are known.

The amounts are those of the two training analyses (docs/health.md).
"""

import math

from cluster.health.history import History

PLAN_B = (
    "set schedule=staged-rewards, measure the base model (below 20%: a stronger model, or easier problems), and read the "
    "completions"
)
BE_CONSISTENT = "learner.reward_threshold=0.2; if that does not help, learner.train_top_k=1 (best-of-n training)"
HIGH_ENTROPY = 0.25


def raise_diversity(history: History) -> str:
    """Return the advice for completions that are too similar; the temperature stays if entropy is high already."""
    more = f"raise {scaled(history, 'rollout.group_size', 4 / 3)}"
    entropy = history.level("entropy")
    if entropy is not None and entropy > HIGH_ENTROPY:
        return more
    return f"{more} and {added(history, 'rollout.temperature', 0.2)}"


def learn_faster(history: History) -> str:
    """Return the advice for rewards that are too low."""
    return (
        f"raise {scaled(history, 'learner.learning_rate', 1.6)} and, if answers are cut off, "
        f"{scaled(history, 'rollout.max_completion_tokens', 1.2)}"
    )


def rebalance(history: History) -> str:
    """Return the advice for rewards that fall while the loss falls."""
    return (
        "set learner.reward_weight=2.0, or learner.kl_coefficient=0.05; raise "
        f"{scaled(history, 'learner.learning_rate', 1.4)} and {added(history, 'rollout.temperature', 0.1)}"
    )


def scaled(history: History, key: str, factor: float) -> str:
    """Return a setting with its value now and ``factor`` times that (rounded up for whole numbers)."""
    now = history.settings.get(key)
    if now is None:
        return f"{key} x {factor:.2g}"
    raised = math.ceil(now * factor - 1e-9) if isinstance(now, int) else now * factor
    return f"{key} ({now:g} -> {raised:.3g})" if isinstance(now, float) else f"{key} ({now} -> {raised})"


def added(history: History, key: str, amount: float) -> str:
    """Return a setting with its value now and ``amount`` more."""
    now = history.settings.get(key)
    return f"{key} by {amount:g}" if now is None else f"{key} ({now:g} -> {now + amount:.3g})"
