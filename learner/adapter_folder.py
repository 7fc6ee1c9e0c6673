"""Adapter folders in PEFT's format, made here or elsewhere: reading, and refusal of what vLLM does not serve."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from cluster.errors import ModelError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's keys begin with this, followed by the base model's module name

# Initializations that change only the adapter; the others (PiSSA, OLoRA, CorDA, LoftQ) also change the base model's weights.
PLAIN_INITIALIZATIONS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")

UNSERVED: Mapping[str, str] = {
    "use_dora": "is a DoRA adapter, which vLLM does not serve",
    "lora_bias": "trains biases of the adapter (lora_bias), which vLLM does not serve",
    "layer_replication": "repeats layers of the model (layer_replication), which vLLM does not serve",
    "alora_invocation_tokens": "is an activated LoRA, which vLLM does not serve",
    "use_bdlora": "is a block-diagonal LoRA, which vLLM does not serve",
    "use_qalora": "is a QALoRA adapter, which vLLM does not serve",
    "trainable_token_indices": "changes embeddings of single tokens (trainable_token_indices), which vLLM does not serve",
    "target_parameters": "changes weights of experts (target_parameters), for which Caravan has no weight sync",
}
"""Key of an adapter's configuration -> reason why it is refused if the key is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFolder:
    """A LoRA adapter that vLLM can serve."""

    path: Path
    files: Mapping[str, bytes]  # CONFIG_FILE and WEIGHTS_FILE
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]  # of the weights, by key

    @property
    def rank(self) -> int:
        """The highest rank of its modules."""
        ranks: list[int] = [self.config["r"], *(self.config.get("rank_pattern") or {}).values()]
        return max(ranks)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names, in the base model, of the modules that it changes."""
        return tuple(sorted({module_of(key) for key in self.shapes}))

    @property
    def base(self) -> str | None:
        """The base model that its configuration names."""
        return self.config.get("base_model_name_or_path") or None


def module_of(key: str) -> str:
    """Return the module of a key, ``base_model.model.<module>.lora_A.weight``."""
    return key.removeprefix(PREFIX).partition(".lora_")[0]


def read_adapter(folder: Path) -> AdapterFolder:
    """Read a PEFT folder; raises ModelError, in one line, if it is no LoRA adapter or one that vLLM does not serve."""
    try:
        files = {name: (folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
        config = json.loads(files[CONFIG_FILE])
        weights = dict(sorted(deserialize(files[WEIGHTS_FILE])))  # type: ignore[no-untyped-call]
        shapes = {key: tuple(weight["shape"]) for key, weight in weights.items()}
        if config.get("peft_type", "LORA") == "LORA":
            if type(config["r"]) is not int:
                raise TypeError(f"{CONFIG_FILE} has r={config['r']!r}, which is no whole number")
            float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        inner = folder / "adapter"
        hint = f". Did you mean {inner}?" if (inner / CONFIG_FILE).is_file() else ""
        if (folder / "adapter_model.bin").is_file():
            hint = ". Its weights are in adapter_model.bin: load it with PEFT and save it with safe_serialization=True"
        raise ModelError(f"{folder} is no LoRA adapter in PEFT format: {error}{hint}") from None
    if reasons := list(_unserved(config)):
        raise ModelError(f"the adapter {folder} {'; it '.join(reasons)}")
    if cause := _broken_weights(weights, config):
        raise ModelError(f"the adapter {folder} cannot be used: {cause}; save it again with PEFT")
    return AdapterFolder(path=folder, files=files, config=config, shapes=shapes)


def _broken_weights(weights: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Return the reason why no model can use the weights of an adapter: incomplete, of another rank, or not finite."""
    if not weights:
        return f"{WEIGHTS_FILE} holds no weights"
    for key, weight in weights.items():
        if not _is_finite(weight["dtype"], weight["data"]):
            return f"{key} holds values that are not finite, or no floating-point numbers ({weight['dtype']})"
        side, other, axis = ("A", "B", 0) if ".lora_A." in key else ("B", "A", 1)
        if f".lora_{side}." not in key:
            continue  # refused with the model, which names the module
        if key.replace(f".lora_{side}.", f".lora_{other}.") not in weights:
            return f"it holds {key} without its lora_{other}"
        shape = weight["shape"]
        if not config.get("rank_pattern") and len(shape) == 2 and shape[axis] != config["r"]:
            return f"{key} has rank {shape[axis]}, and {CONFIG_FILE} says r={config['r']}"
    return None


def _is_finite(dtype: str, data: bytes) -> bool:
    if dtype == "BF16":  # NumPy has no such type: a number is infinite or NaN if all bits of its exponent are set
        return bool((np.frombuffer(data, np.uint16) & 0x7F80 != 0x7F80).all())
    plain = {"F16": np.float16, "F32": np.float32, "F64": np.float64}.get(dtype)
    return plain is not None and bool(np.isfinite(np.frombuffer(data, plain)).all())


def _unserved(config: Mapping[str, Any]) -> Iterator[str]:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        yield f"is of PEFT's type {kind}: only LoRA is trained and served here"
        return
    if saved := config.get("modules_to_save"):
        yield f"replaces the whole weights of {', '.join(saved)} (modules_to_save), which vLLM does not serve"
    if config.get("bias", "none") != "none":
        yield f"changes biases of the model (bias={config['bias']}), which vLLM does not serve"
    initialization = config.get("init_lora_weights", True)
    if isinstance(initialization, str) and initialization.lower() not in PLAIN_INITIALIZATIONS:
        yield (
            f"also changes the base model's weights (init_lora_weights={initialization}): convert it to plain LoRA with PEFT's "
            "path_initial_model_for_weight_conversion"
        )
    yield from (reason for key, reason in UNSERVED.items() if config.get(key))
