"""Mitigations of ``health.on_unhealthy: adapt``: changes of settings and their bounds, from the two training analyses."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from cluster.health.advice import HIGH_ENTROPY
from cluster.health.checks import CheckResult
from cluster.health.history import History
from cluster.health.rules import GRADIENT, HEALTHY_ZERO_STD

MAX_TEMPERATURE = 1.3  # second analysis, "Phase 1: Exploration [...] Higher temperature (1.3)"
GROUP_GROWTH = Fraction(4, 3)  # first analysis, Action 2: 6 -> 8
MAX_LEARNING_RATE_GROWTH = 1.6  # first analysis, Action 3: 5e-6 -> 8e-6
MIN_KL_COEFFICIENT = 0.05  # second analysis, Option B: 0.1 -> 0.05

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Input of a mitigation: metrics so far, current and configured settings by dotted key."""

    history: History
    now: Settings
    configured: Settings

    def above(self, name: str, limit: float) -> bool:
        """Return True where the level of a metric is known and above a limit."""
        level = self.history.level(name)
        return level is not None and level > limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Mitigation:
    """New values of settings, and the alert that they answer."""

    result: CheckResult
    set: dict[str, Any]  # by dotted key


Step = Callable[[RunState], dict[str, Any]]


def mitigation_for(result: CheckResult, run_state: RunState) -> Mitigation | None:
    """Return the mitigation of an alert; None where its rule has none, or all settings are at their bounds."""
    values: dict[str, Any] = {}
    for step in MITIGATIONS.get(result.rule.id, ()):
        values |= step(run_state)
    return Mitigation(result=result, set=values) if values else None


def raise_temperature(by: float, *, where_programs_differ: bool = True) -> Step:
    """Return a step that raises the temperature, unless entropy is high, or (without the option) programs already differ."""

    def step(run_state: RunState) -> dict[str, Any]:
        now = run_state.now["rollout.temperature"]
        raised = round(min(now + by, MAX_TEMPERATURE), 6)
        differs = not where_programs_differ and run_state.above("distinct_share_renamed", 1 - HEALTHY_ZERO_STD)
        is_unsure = run_state.above("entropy", HIGH_ENTROPY)
        return {"rollout.temperature": raised} if raised > now and not differs and not is_unsure else {}

    return step


def grow_groups(run_state: RunState) -> dict[str, Any]:
    """Raise the group size, once."""
    largest = math.ceil(run_state.configured["rollout.group_size"] * GROUP_GROWTH)
    return {"rollout.group_size": largest} if run_state.now["rollout.group_size"] < largest else {}


def learn_faster(by: float) -> Step:
    """Return a step that raises the peak learning rate, unless gradients are large already."""

    def step(run_state: RunState) -> dict[str, Any]:
        now, configured = run_state.now["learner.learning_rate"], run_state.configured["learner.learning_rate"]
        raised = min(now * by, configured * MAX_LEARNING_RATE_GROWTH)
        is_steep = run_state.above("grad_norm", GRADIENT[1])
        return {"learner.learning_rate": raised} if raised > now * (1 + 1e-9) and not is_steep else {}

    return step


def ease_kl(run_state: RunState) -> dict[str, Any]:
    """Halve the KL coefficient, unless learner.kl_target controls it."""
    now = run_state.now["learner.kl_coefficient"]
    eased = max(now / 2, MIN_KL_COEFFICIENT)
    return {"learner.kl_coefficient": eased} if eased < now and run_state.now["learner.kl_target"] is None else {}


MITIGATIONS: Mapping[str, tuple[Step, ...]] = {
    "mode_collapse": (raise_temperature(0.2, where_programs_differ=False), grow_groups),  # first analysis, Priority 1
    "filibuster": (grow_groups,),
    "reward_level": (learn_faster(1.6),),  # first analysis, Priority 2
    "kl_dominates": (ease_kl, learn_faster(1.4), raise_temperature(0.1)),  # second analysis, Priorities 1, 2 and 5
    "entropy": (raise_temperature(0.2),),
}
"""Steps by rule. Other rules have no mitigation that could be applied automatically."""
