"""The weight sync mode that fits the learner's method."""

from collections.abc import Mapping
from typing import Any

AUTO = "auto"
"""Value of rollout.weight_sync_mode that lets Caravan choose the mode."""

FULL = "full"
"""Value of learner.method that trains all weights, and of the only weight sync mode that replaces them."""


def with_sync_mode(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections of a configuration, with the mode of ``learner.method=full`` unless a mode other than auto is set."""
    learner, rollout = tree.get("learner"), tree.get("rollout", {})
    trains_all = isinstance(learner, dict) and learner.get("method") == FULL
    if trains_all and isinstance(rollout, dict) and rollout.get("weight_sync_mode", AUTO) == AUTO:
        return {**tree, "rollout": {**rollout, "weight_sync_mode": FULL}}
    return dict(tree)


def sync_mode_conflict(method: str, mode: str) -> str | None:
    """Return why a weight sync mode does not fit a method, with advice; None if it fits."""
    if (method == FULL) == (mode == FULL):
        return None
    if method == FULL:
        return (
            f"rollout.weight_sync_mode={mode}: it publishes adapters, and learner.method=full trains all weights and no adapter; "
            "remove it, or set rollout.weight_sync_mode=full"
        )
    return (
        "rollout.weight_sync_mode=full: it publishes all weights, and learner.method=lora trains an adapter; set "
        "learner.method=full, or one of the modes versions, in_flight and merged"
    )
