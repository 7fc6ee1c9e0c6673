"""The adapter as it leaves the learner: the two files of a PEFT adapter folder, as bytes."""

import json
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."  # before the base model's own name of a module, in PEFT's keys


def pack_adapter(model: Any, *, dtype: torch.dtype) -> dict[str, bytes]:
    """File name -> content of the adapter of a PEFT model, its weights in ``dtype``.

    The keys are PEFT's, ``base_model.model.<module>.lora_A.weight``: vLLM binds exactly these, and an adapter with other keys
    would load there without a word and change nothing.
    """
    # Asked whether embeddings were trained, PEFT would look the model up on the hub at every step.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    config = model.peft_config["default"].to_dict() | {"inference_mode": True}
    return {
        CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True, default=sorted).encode(),
        WEIGHTS_FILE: save({name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}),
    }


def trained_modules(model: Any) -> tuple[str, ...]:
    """Full names, in the base model, of the modules that carry an adapter: ``model.layers.0.self_attn.q_proj``, ..."""
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    return tuple(sorted({name.removeprefix(PREFIX).partition(".lora_")[0] for name in weights}))
