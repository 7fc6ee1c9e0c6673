"""Changes of settings that ``health.on_unhealthy: adapt`` makes after an alert.

Their amounts and bounds come from the two training analyses.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.health.advice import (
    GROUP_GROWTH,
    HIGH_ENTROPY,
    LEARNING_RATE_GROWTH,
    REBALANCED_LEARNING_RATE_GROWTH,
    REBALANCED_TEMPERATURE_STEP,
    TEMPERATURE_STEP,
)
from cluster.health.checks import CheckResult
from cluster.health.history import History
from cluster.health.rules import GRADIENT, HEALTHY_ZERO_STD

MAX_TEMPERATURE = 1.3  # second analysis, "Phase 1: Exploration [...] Higher temperature (1.3)"
MIN_KL_COEFFICIENT = 0.05  # second analysis, Option B: 0.1 -> 0.05

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Input of a mitigation: the metrics so far, the current settings and the configured settings, both by dotted key."""

    history: History
    current: Settings
    configured: Settings

    def is_above(self, name: str, limit: float) -> bool:
        """Return True if the level of a metric is known and above a limit."""
        level = self.history.level(name)
        return level is not None and level > limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Mitigation:
    """Reaction to an alert: new values of settings."""

    alert: CheckResult
    values: dict[str, Any]  # by dotted key


Change = Callable[[RunState], dict[str, Any]]


def mitigation_for(alert: CheckResult, run_state: RunState) -> Mitigation | None:
    """Return the mitigation of an alert, or None if its rule has no mitigation or all its settings are at their bounds."""
    values: dict[str, Any] = {}
    for change in MITIGATIONS.get(alert.rule.id, ()):
        values |= change(run_state)
    return Mitigation(alert=alert, values=values) if values else None


def raise_temperature(by: float, *, even_if_programs_differ: bool = True) -> Change:
    """Return a change that raises the temperature unless entropy is high.

    With ``even_if_programs_differ=False`` it also requires that the programs of a group are similar.
    """

    def change(run_state: RunState) -> dict[str, Any]:
        now = run_state.current["rollout.temperature"]
        raised = round(min(now + by, MAX_TEMPERATURE), 6)
        is_diverse = not even_if_programs_differ and run_state.is_above("distinct_share_renamed", 1 - HEALTHY_ZERO_STD)
        is_high_entropy = run_state.is_above("entropy", HIGH_ENTROPY)
        return {"rollout.temperature": raised} if raised > now and not is_diverse and not is_high_entropy else {}

    return change


def grow_groups(run_state: RunState) -> dict[str, Any]:
    """Raise the group size by GROUP_GROWTH, once in a run."""
    largest = math.ceil(run_state.configured["rollout.group_size"] * GROUP_GROWTH)
    return {"rollout.group_size": largest} if run_state.current["rollout.group_size"] < largest else {}


def raise_learning_rate(by: float) -> Change:
    """Return a change that raises the peak learning rate unless gradients are already large."""

    def change(run_state: RunState) -> dict[str, Any]:
        now, configured = run_state.current["learner.learning_rate"], run_state.configured["learner.learning_rate"]
        raised = min(now * by, configured * LEARNING_RATE_GROWTH)
        is_large_gradient = run_state.is_above("grad_norm", GRADIENT[1])
        return {"learner.learning_rate": raised} if raised > now * (1 + 1e-9) and not is_large_gradient else {}

    return change


def halve_kl_coefficient(run_state: RunState) -> dict[str, Any]:
    """Halve the KL coefficient, unless learner.kl_target controls it."""
    now = run_state.current["learner.kl_coefficient"]
    halved = max(now / 2, MIN_KL_COEFFICIENT)
    return {"learner.kl_coefficient": halved} if halved < now and run_state.current["learner.kl_target"] is None else {}


MITIGATIONS: Mapping[str, tuple[Change, ...]] = {
    "mode_collapse": (
        raise_temperature(TEMPERATURE_STEP, even_if_programs_differ=False),
        grow_groups,
    ),  # first analysis, Priority 1
    "filibuster": (grow_groups,),
    "reward_level": (raise_learning_rate(LEARNING_RATE_GROWTH),),  # first analysis, Priority 2
    "kl_dominates": (
        halve_kl_coefficient,
        raise_learning_rate(REBALANCED_LEARNING_RATE_GROWTH),
        raise_temperature(REBALANCED_TEMPERATURE_STEP),
    ),  # second analysis, Priorities 1, 2 and 5
    "entropy": (raise_temperature(TEMPERATURE_STEP),),
}
"""Changes by rule. The other rules have no automatic mitigation."""
