"""An adapter added into the weights of its model, for programs that know of no adapters; and what tokens are worth to either."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoTokenizer

from cluster.errors import ModelError
from learner.training.error_text import describe_error
from learner.training.model import Device, folder_or_id, load_model, remove_local_paths


def write_merged(model: str, adapter: Path, folder: Path, *, dtype: str) -> None:
    """Write model + adapter as a folder of transformers', tokenizer included, its weights in ``dtype`` ("float32", "bfloat16").

    Summed in float32 and then cast: in bfloat16 most of what an adapter adds would be lost on the way. Raises ModelError.
    """
    merged, tokenizer = _adapted(model, adapter)
    write_model(merged.merge_and_unload(), tokenizer, folder, dtype=dtype)


def write_model(model: Any, tokenizer: Any, folder: Path, *, dtype: str) -> None:
    """Write a model and its tokenizer as a folder of transformers'; raises ModelError where that cannot be."""
    try:
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        remove_local_paths(folder)
    # A full disk is an OSError to Python and a SafetensorError to safetensors; transformers refuses with the others.
    except (OSError, SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"the model cannot be saved: {describe_error(error)}") from error


def write_tokenizer(model: str, folder: Path) -> None:
    """Write the tokenizer of a model, chat template included; raises ModelError where it cannot be loaded or saved."""
    try:
        AutoTokenizer.from_pretrained(folder_or_id(model)).save_pretrained(folder)
        remove_local_paths(folder)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ModelError(f"the tokenizer of model {model!r} cannot be saved: {describe_error(error)}") from error


def logprobs(model: str, texts: Sequence[Sequence[int]], *, dtype: str, adapter: Path | None = None) -> list[float]:
    """Of each token of each text but its first, given those before it, at temperature 1, one text after the other.

    By the model in ``dtype``, or in float32 with an adapter beside it. Raises ModelError.
    """
    if adapter is None:
        scorer, _ = load_model(model, Device(use_cpu=True, dtype=getattr(torch, dtype)))
    else:
        scorer, _ = _adapted(model, adapter)
    scorer.eval()
    found: list[float] = []
    for token_ids in texts:
        ids = torch.tensor([list(token_ids)])
        with torch.no_grad():
            scores = scorer(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        found.extend(scores.gather(-1, ids[0, 1:, None])[:, 0].tolist())
    return found


def _adapted(model: str, adapter: Path) -> tuple[Any, Any]:
    """The model in float32 with the adapter beside its weights, and its tokenizer."""
    base, tokenizer = load_model(model, Device(use_cpu=True, dtype=torch.float32))
    try:
        return PeftModel.from_pretrained(base, adapter), tokenizer
    # PEFT reports what does not fit the model, or cannot be read, as one of these.
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"the adapter {adapter} does not go with model {model!r}: {describe_error(error)}") from error
