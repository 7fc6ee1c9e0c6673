"""Overrides: settings of the ``learner`` section that may change from step to step."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cluster.errors import LearnerError
from cluster.setting_traits import Trait
from learner.settings import LearnerSettings

CHANGEABLE = tuple(
    sorted(name for name, info in LearnerSettings.model_fields.items() if Trait.CHANGEABLE in info.metadata)
)
"""Keys below ``learner`` that every step reads again."""


def check_changeable(key: str) -> None:
    """Raise ValueError, with key and reason, for a key below ``learner`` that cannot change during a run."""
    if key not in CHANGEABLE:
        raise ValueError(
            f"learner.{key} cannot change during a run: {_reason_fixed(key)}; these keys can: {', '.join(CHANGEABLE)}"
        )


def apply_overrides(settings: LearnerSettings, changes: Mapping[str, Any]) -> LearnerSettings:
    """Return the run's settings with ``changes``, by dotted key below ``learner``.

    Raises LearnerError, in one line, for a key that cannot change and for an invalid value.
    """
    if not changes:
        return settings
    try:
        for key in changes:
            check_changeable(key)
        changed = LearnerSettings.model_validate({**settings.model_dump(), **changes})
        if changed.kl_target is not None and changed.kl_coefficient != settings.kl_coefficient:
            raise ValueError(
                "learner.kl_coefficient cannot change while learner.kl_target adapts it; change the target"
            )
    except ValidationError as error:
        raise LearnerError("; ".join(_explain(problem) for problem in error.errors())) from None
    except ValueError as error:
        raise LearnerError(str(error)) from None
    return changed


def _reason_fixed(key: str) -> str:
    if key.startswith(("lora", "adapter")):
        return "all adapters in checkpoints and samplers have one shape"
    if key not in LearnerSettings.model_fields:
        return "there is no such setting"
    if key == "num_iterations":
        return "it is the unit of the learning rate schedule and the checkpoints"
    if key.startswith(("adam_", "optim", "weight_decay", "lr_scheduler", "warmup")):
        return "the optimizer and its schedule are built with it"
    return "the learner's process is started with it"


def _explain(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:  # about several keys, which the message names
        return message
    return f"learner.{'.'.join(map(str, problem['loc']))}={problem['input']!r}: {message}"
