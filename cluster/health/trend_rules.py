"""Health rules about trends: the last epoch or the latest steps against those before."""

from cluster.health.advice import BE_CONSISTENT, PLAN_B, rebalance
from cluster.health.history import Change, History, change
from cluster.health.rules import (
    NO_DATA,
    REWARD_TARGETS,
    Assessment,
    Health,
    assessed,
    is_due,
)
from cluster.ledger.jsonl import is_finite

WIDE_GAP = 0.20


def reward_trend(history: History) -> Assessment:
    """Check that the mean reward rises."""
    moves = _changes(history, "reward")
    if not moves:
        return NO_DATA
    for move in moves:
        if move.falls:
            return assessed(Health.WARN, f"declining: {move}", f"{rebalance(history)}. Then {BE_CONSISTENT}")
    move = moves[-1]
    if is_due(history) and move.now < REWARD_TARGETS[-1][1] and not move.rises:
        return assessed(Health.WARN, f"flat: {move}", PLAN_B)
    return assessed(Health.OK, str(move), "")


def kl_dominates(history: History) -> Assessment:
    """Check that loss and reward do not fall together, as when the KL term dominates the loss."""
    coefficient = history.settings.get("learner.kl_coefficient")
    if not is_finite(coefficient):  # unknown, or another trainer's
        return NO_DATA
    if not coefficient:
        return assessed(Health.OK, "there is no KL term", "")
    known = False
    for pair in history.pairs("loss", "reward"):
        loss, reward = change(pair, "loss"), change(pair, "reward")
        known = known or (loss is not None and reward is not None)
        if loss and reward and loss.falls and reward.falls:
            return assessed(
                Health.WARN, f"loss {loss}; reward {reward}; kl_coefficient {coefficient:g}", rebalance(history)
            )
    return assessed(Health.OK, f"kl_coefficient {coefficient:g}", "") if known else NO_DATA


def best_of_n_gap(history: History) -> Assessment:
    """Check that the gap between best and mean reward of a group is small or not widening."""
    moves = _changes(history, "best_of_n_gap")
    if not moves:
        return NO_DATA
    for move in moves:
        if move.rises and move.now >= WIDE_GAP:
            return assessed(Health.WARN, f"widening: {move}", f"{BE_CONSISTENT}. {rebalance(history)}")
    return assessed(Health.OK, str(moves[-1]), "")


def _changes(history: History, name: str) -> list[Change]:
    return [found for found in (change(pair, name) for pair in history.pairs(name)) if found]
