"""Supervised training of a new model before GRPO; the tiny model is trained with it."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learner.sft.examples import Pair, SftSchedule


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


def warm_start(
    pairs: Sequence[Pair],
    tokenizer: Any,
    shape: Shape,
    schedule: SftSchedule,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Any:
    """Train a new Qwen2 model on the completions of the pairs, on the CPU in float32.

    Calls ``on_step(step, loss)`` after each step, counted from 1; the loss is in nats per token. Returns a
    transformers ``Qwen2ForCausalLM``; the same pairs, shape and schedule give the same weights on the same machine.
    """
    from learner.training.quiet import silence_libraries

    silence_libraries()
    import torch

    from learner.sft.train import fine_tune
    from learner.training.model import Device

    torch.manual_seed(schedule.seed)
    with tempfile.TemporaryDirectory(prefix="caravan-sft-") as scratch:
        return fine_tune(
            fresh_model(shape),
            tokenizer,
            pairs,
            schedule,
            lora=None,
            device=Device(use_cpu=True, dtype=torch.float32),
            scratch=Path(scratch),
            on_step=on_step,
        ).model.eval()


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
