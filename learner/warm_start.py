"""Supervised training of a small model from nothing, on pairs of a prompt and the completion that it should get.

It knows token ids and nothing of problems or text.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

IGNORED = -1  # a position whose token is not to be learned

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
    """How long and how fast to train: AdamW, a short warm-up, then a cosine down to a tenth of the learning rate."""

    num_steps: int
    batch_size: int  # pairs in a step
    learning_rate: float  # at its highest
    num_warm_up_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0  # share of each target's probability that is spread over the whole vocabulary
    prompt_loss_weight: float = (
        0.0  # of the loss on prompt tokens; a little of it makes copying from prompts come sooner
    )
    seed: int = 0  # of the initial weights and of the order of the pairs


def warm_start(
    pairs: Sequence[Pair],
    shape: Shape,
    schedule: Schedule,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Any:
    """Train a fresh Qwen2 model on the completions of the pairs, in float32.

    Calls ``on_step(step, loss)`` after each step, counted from 1; the loss is in nats per token. Returns a
    transformers ``Qwen2ForCausalLM``; the same pairs, shape and schedule give the same weights on the same machine.
    """
    import torch
    from transformers import get_cosine_with_min_lr_schedule_with_warmup

    torch.manual_seed(schedule.seed)
    model = fresh_model(shape)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=schedule.weight_decay
    )
    rate = get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, schedule.num_warm_up_steps, schedule.num_steps, min_lr_rate=0.1
    )
    model.train()
    lengths = [len(prompt) + len(completion) for prompt, completion in pairs]
    for step, chosen in enumerate(_batches(lengths, schedule), start=1):
        input_ids, attention_mask, targets = _collate([pairs[i] for i in chosen], shape.pad_id)
        hidden = model.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[:, :-1]
        learned = targets[:, 1:] != IGNORED
        loss = torch.nn.functional.cross_entropy(
            model.lm_head(hidden[learned]), targets[:, 1:][learned], label_smoothing=schedule.label_smoothing
        )
        if schedule.prompt_loss_weight > 0:
            read = (attention_mask[:, 1:] == 1) & ~learned
            loss += schedule.prompt_loss_weight * torch.nn.functional.cross_entropy(
                model.lm_head(hidden[read]), input_ids[:, 1:][read]
            )
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.max_grad_norm)
        optimizer.step()
        rate.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(step, loss.item())
    return model.eval()


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


def _batches(lengths: Sequence[int], schedule: Schedule) -> Iterator[list[int]]:
    """Indices of the pairs of each step, of similar lengths so that little is padding; each pair once per epoch."""
    import random

    rng = random.Random(schedule.seed)
    size = schedule.batch_size
    taken = 0
    while taken < schedule.num_steps:
        epoch = rng.sample(range(len(lengths)), len(lengths))
        drawer = size * 8  # pairs are sorted within drawers only, so that batches differ from epoch to epoch
        drawers = [sorted(epoch[i : i + drawer], key=lengths.__getitem__) for i in range(0, len(epoch), drawer)]
        batches = [pairs[i : i + size] for pairs in drawers for i in range(0, len(pairs), size)]
        rng.shuffle(batches)
        yield from batches[: schedule.num_steps - taken]
        taken += len(batches)


def _collate(pairs: Sequence[Pair], pad_id: int) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
    """Right-padded input ids, attention mask and targets, each ``[B, P + T]``; prompts and padding are no targets."""
    import torch

    width = max(len(prompt) + len(completion) for prompt, completion in pairs)
    input_ids = torch.full((len(pairs), width), pad_id)
    targets = torch.full((len(pairs), width), IGNORED)
    attention_mask = torch.zeros((len(pairs), width), dtype=torch.long)
    for row, (prompt, completion) in enumerate(pairs):
        end = len(prompt) + len(completion)
        input_ids[row, :end] = torch.tensor([*prompt, *completion])
        targets[row, len(prompt) : end] = torch.tensor(list(completion))
        attention_mask[row, :end] = 1
    return input_ids, attention_mask, targets
