"""Effects of ``learner.method`` on other settings: defaults, and combinations that make no sense."""

from collections.abc import Mapping
from typing import Any

FULL_LEARNING_RATE = 1e-6
"""Default of ``learner.learning_rate`` with ``learner.method=full``: that of TRL's GRPO. AdamW moves every weight by about the
learning rate in a step, whatever its gradient. An adapter's factors start near 0 and bear larger steps than trained weights."""


def with_learning_rate(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the ``learner`` section with the learning rate of its method, unless they have one."""
    if values.get("method") == "full" and "learning_rate" not in values:
        return {**values, "learning_rate": FULL_LEARNING_RATE}
    return dict(values)


def method_conflict(settings: Any) -> str | None:
    """Return a setting of the ``learner`` section that ``method=full`` excludes, with advice; None without one."""
    if settings.method != "full":
        return None
    lora, defaults = settings.lora, type(settings.lora)()
    for name in sorted(lora.model_fields_set):
        if getattr(lora, name) != getattr(defaults, name):
            return (
                f"lora.{name}={getattr(lora, name)}: learner.method=full trains all weights, and no adapter; remove it (or set "
                f"its default, {getattr(defaults, name)}), or set learner.method=lora"
            )
    if settings.adapter is not None:
        return (
            f"adapter={settings.adapter}: learner.method=full trains all weights, and no adapter; merge it into its base model "
            "(`caravan export RUN OUT --merge`) and give model.path=OUT, or set learner.method=lora"
        )
    if settings.quantization is not None:
        return (
            f"quantization={settings.quantization}: learner.method=full has no frozen base to quantize; remove it, or set "
            "learner.method=lora"
        )
    if settings.shard_base:
        return "shard_base: learner.method=full has no frozen base to shard; remove it, or set learner.method=lora"
    return None
