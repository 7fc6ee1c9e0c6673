"""The published adapter: the two files of a PEFT adapter folder, as bytes."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # PEFT's keys begin with this, followed by the base model's module name

HUB_CACHE_FOLDER = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/")


def base_name(model: str) -> str:
    """Return a model's public name: its id on the hub, or the last part of its folder.

    ``_name_or_path`` in a folder's config.json is not used: for a fine-tuned model it often names the original.
    """
    if cached := HUB_CACHE_FOLDER.search(model):
        return f"{cached[1]}/{cached[2]}"
    path = Path(model).expanduser()
    return path.resolve().name if path.is_absolute() or model.startswith(".") or path.is_dir() else model


def pack_adapter(model: Any, *, dtype: torch.dtype) -> dict[str, bytes]:
    """Return the files of a PEFT model's adapter, name -> content, with weights in ``dtype``.

    The keys are PEFT's, ``base_model.model.<module>.lora_A.weight``: vLLM binds exactly these, and silently ignores others.
    """
    # With save_embedding_layers="auto", PEFT would look the model up on the hub at every step.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = model.peft_config["default"].to_dict() | {"inference_mode": True}
    if base := config["base_model_name_or_path"]:  # None for a model that was never saved
        config["base_model_name_or_path"] = base_name(base)
    return {
        CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True, default=sorted).encode(),
        WEIGHTS_FILE: save({name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}),
    }


def trained_modules(model: Any) -> tuple[str, ...]:
    """Names, in the base model, of the modules with an adapter: ``model.layers.0.self_attn.q_proj``, ..."""
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return tuple(sorted({name.removeprefix(PREFIX).partition(".lora_")[0] for name in weights}))
