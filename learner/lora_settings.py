"""The ``learner.lora`` section of the configuration: the trained adapter."""

import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

ALL_LINEAR = "all-linear"  # as in PEFT
MODULE_NAME = re.compile(r"\w+(\.\w+)*")

MAX_RANK = 512
"""Highest rank that vLLM serves."""


class LoraSettings(BaseModel):
    """The trained low-rank adapter (Hu et al. 2021); the defaults are those of the first training analysis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(
        32,
        ge=1,
        le=MAX_RANK,
        description="rank of the update matrices; samplers reserve memory for the next rank that vLLM knows: 1, 8, 16, 32, 64, "
        "128, 256, 320 or 512",
    )
    alpha: int | float = Field(64, gt=0, le=1_000_000, description="the update is scaled by alpha / r")
    use_rslora: bool = Field(
        False,
        description="scale the update by alpha / sqrt(r) instead, so that its size does not shrink with the rank (rsLoRA, "
        "Kalajdzievski 2023)",
    )
    dropout: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="dropout before the adapter in training; it adds a little noise to the ratio to the sampler",
    )
    bias: Literal["none"] = Field(
        "none", description="biases are not trained: vLLM serves no adapter that changes them"
    )
    target_modules: tuple[str, ...] = Field(
        (ALL_LINEAR,),
        min_length=1,
        description="names of the linear modules that get an adapter, for example q_proj,v_proj; all-linear: all in the "
        "decoder's layers (in Qwen2: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj). Unknown names are refused; "
        "regular expressions are not supported",
    )

    @field_validator("target_modules", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        """Split names: a list, or a text with commas or spaces between them."""
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, Iterable) or not all(isinstance(part, str) for part in parts):
            return value  # pydantic refuses its type
        names = (name for part in parts for name in re.split(r"[\s,\[\]\"']+", part) if name)
        return tuple(dict.fromkeys(ALL_LINEAR if name.lower() == ALL_LINEAR else name for name in names))

    @field_validator("target_modules")
    @classmethod
    def _check_module_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "lm_head" in names:
            raise ValueError(
                "lora.target_modules contains lm_head: TRL reads the head's own weight, so an adapter on it would never be "
                "trained; remove it"
            )
        if ALL_LINEAR in names and len(names) > 1:
            raise ValueError(f"lora.target_modules contains {ALL_LINEAR} and other names: use one or the other")
        for name in names:
            if name != ALL_LINEAR and not MODULE_NAME.fullmatch(name):
                raise ValueError(
                    f"lora.target_modules contains {name!r}, which is not a module name; list names, for example q_proj,v_proj "
                    "(regular expressions are not supported)"
                )
        return names
