"""The adapter as it leaves the learner: the two files of a PEFT adapter folder, as bytes."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # before the base model's own name of a module, in PEFT's keys

IN_THE_HUBS_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/")


def base_name(model: str) -> str:
    """The name by which others know a model: its id on the hub, or the last part of its folder.

    A folder's own config.json is not asked: its ``_name_or_path``, where it has one, is often what the model was made from.
    """
    if cached := IN_THE_HUBS_CACHE.search(model):
        return f"{cached[1]}/{cached[2]}"
    path = Path(model).expanduser()
    return path.resolve().name if path.is_absolute() or model.startswith(".") or path.is_dir() else model


def pack_adapter(model: Any, *, dtype: torch.dtype) -> dict[str, bytes]:
    """File name -> content of the adapter of a PEFT model, its weights in ``dtype``.

    The keys are PEFT's, ``base_model.model.<module>.lora_A.weight``: vLLM binds exactly these, and an adapter with other keys
    would load there without a word and change nothing.
    """
    # Asked whether embeddings were trained, PEFT would look the model up on the hub at every step.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = model.peft_config["default"].to_dict() | {"inference_mode": True}
    if base := config["base_model_name_or_path"]:  # a model that was made here, and never saved, has none
        config["base_model_name_or_path"] = base_name(base)
    return {
        CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True, default=sorted).encode(),
        WEIGHTS_FILE: save({name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}),
    }


def trained_modules(model: Any) -> tuple[str, ...]:
    """Full names, in the base model, of the modules that carry an adapter: ``model.layers.0.self_attn.q_proj``, ..."""
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return tuple(sorted({name.removeprefix(PREFIX).partition(".lora_")[0] for name in weights}))
