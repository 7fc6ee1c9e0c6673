"""The published adapter: the two files of a PEFT adapter folder, as bytes."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load, save

from cluster.errors import ModelError
from learner.adapter_folder import CONFIG_FILE, WEIGHTS_FILE, module_of

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
    return tuple(sorted({module_of(name) for name in weights}))


def load_weights(model: Any, files: Mapping[str, bytes]) -> None:
    """Replace the weights of a PEFT model's adapter by those of adapter files, in float32.

    Raises ModelError for weights of other names or shapes.
    """
    weights = {name: tensor.float() for name, tensor in load(files[WEIGHTS_FILE]).items()}
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    if differing := sorted(
        name
        for name in own.keys() | weights.keys()
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    ):
        raise ModelError(
            f"the initial adapter does not fit learner.lora: {len(differing)} of its weights have no counterpart of their "
            f"shape, for example {differing[0]}"
        )
    set_peft_model_state_dict(model, weights)
