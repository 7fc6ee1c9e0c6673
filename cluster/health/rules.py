"""Health rules about rewards, pass rate, entropy and gradient.

The thresholds are those of the two training analyses (README, "Why it exists"). checks.py quotes them, and docs/health.md
explains the rules. Rules about trends are in trend_rules.py, rules about completions in sample_rules.py.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from cluster.health.advice import HIGH_ENTROPY, LEARNING_RATE_GROWTH, PLAN_B, learn_faster, raise_diversity, scaled
from cluster.health.history import LEVEL_STEPS, History


class Health(StrEnum):
    """Result of a rule, from best to worst after NO_DATA."""

    NO_DATA = "not-enough-data"
    OK = "ok"
    WARN = "warn"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """Health with evidence and a recommended action."""

    health: Health
    evidence: str = ""  # the metrics, in one line
    action: str = ""  # recommended by the source; empty for OK


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A health rule: description, source and function."""

    id: str
    measures: str
    threshold: str
    source: str
    check: Callable[[History], Assessment]


FIRST, SECOND = "first analysis", "second analysis"
OCAMLER = "github.com/kirang89/ocamler-grpo"
NO_DATA = Assessment(health=Health.NO_DATA)

DECISION_EPOCH = 1.0
"""Epoch of the first analysis' stop criteria ("Stop if at Epoch 1.0")."""

STEPS_TO_SHOW = 100
"""Steps until a change shows an effect ("should drop below 0.10 within 100 steps"). On a small dataset, epochs pass sooner."""

HEALTHY_ZERO_STD, STOP_ZERO_STD = 0.10, 0.30
FALLING_ZERO_STD = (0.50, 0.3)  # (start value, last epoch) of "Epoch 0.0-0.3: frac_zero_std drops from 0.50 -> 0.10"
LOW_ENTROPY = 0.10
HEALTHY_CV, EXPECTED_CV = 0.30, 0.50
REWARD_TARGETS = ((0.0, 0.05), (0.3, 0.15), (0.5, 0.20), (1.0, 0.35))  # (epoch, mean reward)
STOP_REWARD = 0.15
PASS_TARGETS = ((0.5, 0.05), (1.0, 0.10))  # (epoch, share of completions that pass)
GRADIENT = (0.01, 0.5, 10.0)  # smallest, largest, exploding


def assessed(health: Health, evidence: str, action: str) -> Assessment:
    """Return an assessment, without an action if the health is OK."""
    return Assessment(health=health, evidence=evidence, action="" if health is Health.OK else action)


def is_due(history: History) -> bool:
    """Return True once the run is long enough for the stop criteria of the first analysis."""
    epoch = history.epoch
    has_had_time = not history.steps or history.steps[-1]["step"] >= STEPS_TO_SHOW
    return epoch is not None and epoch >= DECISION_EPOCH and has_had_time


def numbers(history: History) -> Assessment:
    """Check that loss, gradient, reward and entropy are finite."""
    if history.diverged_at is not None:
        return assessed(
            Health.STOP,
            f"step {history.diverged_at} diverged and was not taken",
            "resume from the last checkpoint with a lower learner.learning_rate or learner.max_grad_norm",
        )
    if not history.steps:
        return NO_DATA
    for row in history.steps[-LEVEL_STEPS:]:
        values = {name: row.get(name) for name in ("loss", "grad_norm", "reward", "entropy")}
        bad = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
        if bad and row["step"] > history.changed_at:
            return assessed(
                Health.STOP,
                f"step {row['step']:g}: {', '.join(f'{name}={row[name]}' for name in bad)}",
                "resume from the checkpoint before it with a lower learner.learning_rate or learner.max_grad_norm",
            )
    return assessed(Health.OK, f"at all of the last {min(LEVEL_STEPS, len(history.steps))} steps", "")


def mode_collapse(history: History) -> Assessment:
    """Check the share of groups whose completions all earn the same reward without solving the problem."""
    name = "frac_zero_std_sampled" if history.level("frac_zero_std_sampled") is not None else "frac_zero_std"
    without_signal, epoch = history.level(name), history.epoch
    if without_signal is None or epoch is None:
        return NO_DATA
    solved = history.level("frac_zero_std_solved") or 0.0
    collapsed = max(0.0, without_signal - solved)
    start, end = FALLING_ZERO_STD
    allowed = max(HEALTHY_ZERO_STD, start - (start - HEALTHY_ZERO_STD) * epoch / end)
    evidence = f"{collapsed:.0%} of groups at epoch {epoch:.2f}, {allowed:.0%} is healthy at this epoch"
    action = raise_diversity(history)
    distinct = history.level("distinct_share_renamed")
    if distinct is not None:
        evidence += f"; {distinct:.0%} of a group's programs differ"
        if distinct > 1 - HEALTHY_ZERO_STD:
            action = f"the programs differ, but their rewards are equal: the problems are too hard. {PLAN_B}"
    if is_due(history) and collapsed > STOP_ZERO_STD:
        return assessed(Health.STOP, evidence, f"{action}. {PLAN_B}" if PLAN_B not in action else action)
    return assessed(Health.WARN if collapsed >= allowed else Health.OK, evidence, action)


def solved_groups(history: History) -> Assessment:
    """Check the share of groups without signal because all completions pass."""
    solved = history.level("frac_zero_std_solved")
    if solved is None:
        return NO_DATA
    return assessed(
        Health.WARN if solved >= HEALTHY_ZERO_STD else Health.OK,
        f"{solved:.0%} of the groups that were sampled",
        "these problems have no signal left: loop.drop_groups_without_signal=true or loop.max_mean_reward=0.95, or harder "
        "problems",
    )


def reward_level(history: History) -> Assessment:
    """Check the mean reward against the first analysis' target for this epoch."""
    reward, epoch = history.level("reward"), history.epoch
    if reward is None or epoch is None:
        return NO_DATA
    target = _interpolated(REWARD_TARGETS, epoch)
    evidence = f"{reward:.3f} at epoch {epoch:.2f}, {target:.3f} expected"
    if is_due(history) and reward < STOP_REWARD:
        return assessed(Health.STOP, evidence, PLAN_B)
    return assessed(Health.WARN if reward < target else Health.OK, evidence, learn_faster(history))


def passes(history: History) -> Assessment:
    """Check the share of completions that pass all tests."""
    passed, epoch = history.level("pass_rate"), history.epoch
    if passed is None or epoch is None:
        return NO_DATA
    wanted = max((share for since, share in PASS_TARGETS if epoch >= since), default=0.0)
    evidence = f"{passed:.1%} at epoch {epoch:.2f}, {wanted:.0%} expected"
    if is_due(history) and passed == 0:
        return assessed(Health.STOP, evidence, PLAN_B)
    return assessed(Health.WARN if passed < wanted else Health.OK, evidence, PLAN_B)


def reward_spread(history: History) -> Assessment:
    """Check the coefficient of variation of rewards within groups."""
    spread, reward = history.level("reward_std"), history.level("reward")
    if spread is None or not reward:
        return NO_DATA
    ratio = spread / reward
    return assessed(
        Health.WARN if ratio > EXPECTED_CV else Health.OK,
        f"{ratio:.2f} ({spread:.3f} / {reward:.3f}); up to {EXPECTED_CV:.2f} expected, below {HEALTHY_CV:.2f} is best",
        "more completions per problem (rollout.group_size) give better estimates; with rewards of only 0 and 1 this spread is "
        "normal at any pass rate below 80%",
    )


def entropy(history: History) -> Assessment:
    """Check the entropy of the policy."""
    rows = history.level_steps("entropy")
    if not rows:
        return NO_DATA
    values = sorted(row["entropy"] for row in rows)
    mean = statistics.fmean(values)
    num_low, num_high = sum(value < LOW_ENTROPY for value in values), sum(value > HIGH_ENTROPY for value in values)
    evidence = (
        f"{mean:.3f} nats, {values[0]:.3f} to {values[-1]:.3f} in {len(values)} steps; "
        f"{num_low} below {LOW_ENTROPY:.2f}, {num_high} above {HIGH_ENTROPY:.2f}"
    )
    few = 0.1 * len(values)
    if mean < LOW_ENTROPY or (num_low > few and num_low >= num_high):
        return assessed(Health.WARN, f"too low: {evidence}", raise_diversity(history))
    if mean > HIGH_ENTROPY or num_high > few:
        action = "lower rollout.temperature, or raise learner.kl_coefficient"
        return assessed(Health.WARN, f"too high: {evidence}", action)
    return assessed(Health.OK, evidence, "")


def gradient(history: History) -> Assessment:
    """Check the median gradient norm before clipping; the median, since one spike is not a trend."""
    rows = history.level_steps("grad_norm")
    if not rows:
        return NO_DATA
    norm = statistics.median(row["grad_norm"] for row in rows)
    smallest, largest, exploding = GRADIENT
    evidence = f"median {norm:.4f}, {smallest:g} to {largest:g} expected"
    if norm > exploding:
        return assessed(Health.STOP, evidence, "lower learner.learning_rate and learner.max_grad_norm")
    if norm > largest:
        return assessed(Health.WARN, evidence, "lower learner.learning_rate or learner.max_grad_norm")
    faster = scaled(history, "learner.learning_rate", LEARNING_RATE_GROWTH)
    action = f"the policy hardly changes: raise {faster}, and {raise_diversity(history)}"
    return assessed(Health.WARN if norm < smallest else Health.OK, evidence, action)


def _interpolated(points: tuple[tuple[float, float], ...], at: float) -> float:
    """Interpolate linearly between points, constant after the last."""
    for (left, low), (right, high) in pairwise(points):
        if at <= right:
            return low + (high - low) * (at - left) / (right - left)
    return points[-1][1]
