"""Merging of an adapter into the weights of its model, and log-probabilities of a model with or without an adapter."""

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
    """Write model + adapter as a transformers folder with tokenizer, in ``dtype`` ("float32", "bfloat16").

    The weights are summed in float32 and then cast: a bfloat16 sum would lose most of the adapter. Raises ModelError.
    """
    adapted, tokenizer = _load_with_adapter(model, adapter)
    write_model(adapted.merge_and_unload(), tokenizer, folder, dtype=dtype)


def write_copy(source: Path, folder: Path, *, dtype: str) -> None:
    """Write a model folder again, in ``dtype``; raises ModelError."""
    model, tokenizer = load_model(str(source), Device(use_cpu=True, dtype=torch.float32))
    write_model(model, tokenizer, folder, dtype=dtype)


def write_model(model: Any, tokenizer: Any, folder: Path, *, dtype: str) -> None:
    """Write a model and its tokenizer as a transformers folder; raises ModelError when that fails."""
    try:
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        remove_local_paths(folder)
    # A full disk raises OSError in Python and SafetensorError in safetensors. A refusal of transformers raises one of the others.
    except (OSError, SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"the model cannot be saved: {describe_error(error)}") from error


def write_tokenizer(model: str, folder: Path) -> None:
    """Write the tokenizer of a model, chat template included; raises ModelError if it cannot be loaded or saved."""
    try:
        AutoTokenizer.from_pretrained(folder_or_id(model)).save_pretrained(folder)
        remove_local_paths(folder)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise ModelError(f"the tokenizer of model {model!r} cannot be saved: {describe_error(error)}") from error


def logprobs(model: str, sequences: Sequence[Sequence[int]], *, dtype: str, adapter: Path | None = None) -> list[float]:
    """Return the log-probabilities, at temperature 1, of the tokens of ``sequences`` except each one's first, concatenated.

    Without an adapter the model computes in ``dtype``; with one, which stays unmerged, in float32. Raises ModelError.
    """
    if adapter is None:
        scorer, _ = load_model(model, Device(use_cpu=True, dtype=getattr(torch, dtype)))
    else:
        scorer, _ = _load_with_adapter(model, adapter)
    scorer.eval()
    values: list[float] = []
    for token_ids in sequences:
        ids = torch.tensor([list(token_ids)])
        with torch.no_grad():
            scores = scorer(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        values.extend(scores.gather(-1, ids[0, 1:, None])[:, 0].tolist())
    return values


def _load_with_adapter(model: str, adapter: Path) -> tuple[Any, Any]:
    """Load the model in float32 with the unmerged adapter, and the tokenizer."""
    base, tokenizer = load_model(model, Device(use_cpu=True, dtype=torch.float32))
    try:
        return PeftModel.from_pretrained(base, adapter), tokenizer
    # PEFT raises one of these for an adapter that does not fit the model or cannot be read.
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"the adapter {adapter} does not fit model {model!r}: {describe_error(error)}") from error
