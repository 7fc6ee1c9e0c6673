"""Log-probabilities of probe prompts under the model of a trainer, without the logits ``[P, N, V]`` of all their tokens.

At 1,000 tokens and a vocabulary of 152,000 these logits are the learner's largest tensor. TRL's fused head computes in tiles.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from learner.training.full import FullModel

NUM_COMPARED = 64
"""Number of the prompt's last tokens that ``training_gap`` compares. Logits are computed only for them."""


def fused_logprobs(model: Any, token_ids: Sequence[Sequence[int]]) -> Tensor:
    """Logprobs ``[P, N - 1]`` of rows of equal length, ``[P, N]``; the first token of a row has none.

    Dropout is off. The temperature is that of the model's fused head (TRL's).
    """
    was_training = model.training
    model.eval()
    logprobs = _fused(model, torch.tensor(token_ids, device=model.device))
    model.train(was_training)
    return logprobs


def training_gap(model: Any, token_ids: Sequence[int], *, temperature: float) -> float:
    """Mean difference between the fused head's logprobs in training and those of the model's logits, in nats per token.

    The adapter is disabled. The mean is over the last NUM_COMPARED tokens. ``temperature`` is that of the fused head.
    """
    ids = torch.tensor([token_ids], device=model.device)
    labels = ids[0, 1:][-NUM_COMPARED:]
    without_adapter = nullcontext() if isinstance(model, FullModel) else model.disable_adapter()
    with torch.no_grad(), without_adapter, torch.random.fork_rng():
        model.eval()
        logits = model(input_ids=ids, logits_to_keep=len(labels) + 1).logits[0, -len(labels) - 1 : -1]
        model.train()
        fused = _fused(model, ids)[0, -len(labels) :]
    expected = (logits.float() / temperature).log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    return float((fused.float() - expected).abs().mean())


def _fused(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        logprobs: Tensor = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, fused_lm_head=True
        ).log_probs
    return logprobs
