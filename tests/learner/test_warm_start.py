"""Supervised training from nothing, on a task that a very small model learns within seconds."""

import math
import random

import pytest

from learner.warm_start import Pair, Schedule, Shape, warm_start

EOS, PAD = 0, 1
SHAPE = Shape(
    vocab_size=16, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, intermediate_size=64,
    max_position_embeddings=32, eos_id=EOS, pad_id=PAD,
)  # fmt: skip


def successor_pairs(count: int) -> list[Pair]:
    """Prompts of one token; the completion names its successor."""
    rng = random.Random(0)
    prompts = [rng.randrange(2, 15) for _ in range(count)]
    return [([prompt], [prompt + 1, EOS]) for prompt in prompts]


def train(pairs: list[Pair], num_steps: int, **schedule: float):
    losses: list[float] = []
    settings = Schedule(num_steps=num_steps, batch_size=16, learning_rate=1e-2, num_warm_up_steps=5, **schedule)
    model = warm_start(pairs, SHAPE, settings, lambda _step, loss: losses.append(loss))
    return model, losses


def test_the_model_learns_what_the_completions_say() -> None:
    import torch

    pairs = successor_pairs(200)
    model, losses = train(pairs, 150)
    assert losses[0] == pytest.approx(math.log(16), abs=1.0)
    assert losses[-1] < 0.3
    for prompt, completion in pairs[:20]:
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        assert int(logits.argmax()) == completion[0]


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    import torch

    pairs = successor_pairs(50)
    first, again, other = (train(pairs, 3, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_prompts_carry_no_loss() -> None:
    """With completions that are always the same, even random prompts leave nothing to lose."""
    rng = random.Random(0)
    pairs: list[Pair] = [([rng.randrange(2, 15) for _ in range(rng.randint(1, 9))], [7, EOS]) for _ in range(200)]
    assert train(pairs, 40)[1][-1] < 0.3


def test_every_pair_is_used_once_before_any_comes_again() -> None:
    from learner.warm_start import _batches

    batches = list(_batches([3, 1, 4, 1, 5, 9, 2], Schedule(num_steps=8, batch_size=2, learning_rate=1e-2)))
    assert len(batches) == 8
    assert sorted(index for batch in batches[:4] for index in batch) == list(range(7))
    assert sorted(index for batch in batches[4:] for index in batch) == list(range(7))


def test_label_smoothing_leaves_the_model_less_sure() -> None:
    pairs = successor_pairs(200)
    assert train(pairs, 40, label_smoothing=0.1)[1][-1] > train(pairs, 40)[1][-1] + 0.2
