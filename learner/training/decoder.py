"""The linear modules of a model's text decoder, which adapters train and quantization replaces."""

from typing import Any

import torch
from transformers.pytorch_utils import Conv1D


def linear_names(model: Any) -> list[str]:
    """Full names of the linear modules of the text decoder, without the output head."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    inside = {id(module) for module in decoder.modules()}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head and id(module) in inside
    ]
