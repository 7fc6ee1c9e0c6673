"""Supervised training, told without its heavy imports: what is learned, for how long, and a fresh model to begin with.

``learner.sft`` does it.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Pair = tuple[Sequence[int], Sequence[int]]  # prompt ids [P], completion ids [T], the end-of-sequence token included


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The size of a Qwen2 model with tied embeddings."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    max_position_embeddings: int
    eos_id: int
    pad_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to train: AdamW, a linear warm-up, then a cosine down to a tenth of the learning rate."""

    num_steps: int | None = None  # None: as many as the epochs take
    num_epochs: float = 1.0
    batch_size: int = 16  # pairs in a step
    micro_batch_size: int = (
        16  # pairs in one forward and backward pass, which divides the batch size; a question of memory only
    )
    learning_rate: float  # at its highest
    num_warm_up_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0  # share of each target's probability that is spread over the whole vocabulary
    prompt_loss_weight: float = (
        0.0  # of the mean loss on prompt tokens; a little of it makes copying from prompts come sooner
    )
    seed: int = 0  # of the order of the pairs, of dropout and of a new adapter's weights


def warm_start(
    pairs: Sequence[Pair],
    tokenizer: Any,
    shape: Shape,
    schedule: Schedule,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Any:
    """Train a fresh Qwen2 model on the completions of the pairs, on the CPU in float32.

    Calls ``on_step(step, loss)`` after each step, counted from 1; the loss is in nats per token. Returns a
    transformers ``Qwen2ForCausalLM``; the same pairs, shape and schedule give the same weights on the same machine.
    """
    from learner.quiet import hush

    hush()
    import torch

    from learner.model import Place
    from learner.sft import fine_tune

    torch.manual_seed(schedule.seed)
    with tempfile.TemporaryDirectory(prefix="caravan-sft-") as scratch:
        return fine_tune(
            fresh_model(shape),
            tokenizer,
            pairs,
            schedule,
            lora=None,
            place=Place(use_cpu=True, dtype=torch.float32),
            scratch=Path(scratch),
            on_step=on_step,
        ).eval()


def fresh_model(shape: Shape) -> Any:
    """A ``Qwen2ForCausalLM`` with random weights, from torch's current seed."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            intermediate_size=shape.intermediate_size,
            max_position_embeddings=shape.max_position_embeddings,
            tie_word_embeddings=True,
            initializer_range=shape.hidden_size**-0.5,
            bos_token_id=None,
            eos_token_id=shape.eos_id,
            pad_token_id=shape.pad_id,
        )
    )
