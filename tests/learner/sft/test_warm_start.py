"""Supervised training from random weights, on a task that a very small model learns within seconds."""

import math
import random
from itertools import pairwise
from typing import Any

import pytest

from learner.sft.examples import Pair, SftSchedule
from learner.sft.warm_start import Shape, warm_start

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


def tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(16)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", pad_token="w1")


def train(pairs: list[Pair], num_steps: int, **schedule: float) -> tuple[Any, list[float]]:
    losses: list[float] = []
    settings = SftSchedule(num_steps=num_steps, batch_size=16, learning_rate=1e-2, num_warm_up_steps=5, **schedule)  # type: ignore[arg-type]
    model = warm_start(pairs, tokenizer(), SHAPE, settings, lambda _step, loss: losses.append(loss))
    return model, losses


def test_the_model_learns_the_completions() -> None:
    import torch

    pairs = successor_pairs(200)
    model, losses = train(pairs, 150)
    assert losses[0] == pytest.approx(math.log(16), abs=1.0)
    assert losses[-1] < 0.3
    for prompt, completion in pairs[:20]:
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1]
        assert int(logits.argmax()) == completion[0]


def test_a_trained_model_still_generates_with_a_cache() -> None:
    model, _ = train(successor_pairs(20), 1)
    assert model.config.use_cache


def test_equal_seeds_give_equal_weights_and_different_ones_do_not() -> None:
    import torch

    pairs = successor_pairs(50)
    first, again, other = (train(pairs, 3, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_prompts_carry_no_loss() -> None:
    """All completions are the same, so the loss becomes small although the prompts are random."""
    rng = random.Random(0)
    pairs: list[Pair] = [([rng.randrange(2, 15) for _ in range(rng.randint(1, 9))], [7, EOS]) for _ in range(200)]
    assert train(pairs, 40)[1][-1] < 0.3


def test_label_smoothing_makes_the_model_less_confident() -> None:
    pairs = successor_pairs(200)
    assert train(pairs, 40, label_smoothing=0.1)[1][-1] > train(pairs, 40)[1][-1] + 0.2


def test_prompts_are_learned_if_their_loss_has_a_weight() -> None:
    """All prompts are the same: only with a weight does the model learn their second token."""
    import torch

    pairs: list[Pair] = [([5, 9], [7, EOS])] * 64
    scores = [
        train(pairs, 40, prompt_loss_weight=weight)[0](input_ids=torch.tensor([[5]])).logits[0, -1].log_softmax(-1)[9]
        for weight in (0.0, 1.0)
    ]
    assert scores[1] > -0.5 > scores[0]


def test_the_split_into_micro_batches_does_not_change_the_step() -> None:
    import torch

    rng = random.Random(1)
    pairs: list[Pair] = [
        ([rng.randrange(2, 15)] * rng.randint(1, 6), [rng.randrange(2, 15)] * rng.randint(1, 5) + [EOS])
        for _ in range(64)
    ]
    for changes in ({}, {"label_smoothing": 0.1}):
        whole, small = (train(pairs, 3, micro_batch_size=size, **changes)[0].state_dict() for size in (16, 4))
        assert all(torch.allclose(whole[name], small[name], atol=2e-3) for name in whole), changes
        assert not all(torch.equal(whole[name], small[name]) for name in whole)


def test_every_pair_is_used_once_per_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    from learner.sft.train import _CompletionTrainer

    seen: list[int] = []
    original = _CompletionTrainer.compute_loss

    def noting_inputs(self: _CompletionTrainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.extend(inputs["input_ids"][:, 0].tolist())
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(_CompletionTrainer, "compute_loss", noting_inputs)
    pairs: list[Pair] = [([number], [7, EOS]) for number in range(2, 14)]
    train(pairs * 4, 6)
    assert sorted(seen[:48]) == sorted(list(range(2, 14)) * 4)
    assert sorted(seen[48:]) == sorted(list(range(2, 14)) * 4)


def test_the_pairs_of_a_step_have_similar_lengths_and_steps_are_in_random_order() -> None:
    from learner.sft.train import StepsOfSimilarLengths

    rng = random.Random(0)
    lengths = [rng.randint(5, 300) for _ in range(2570)]
    sampler = StepsOfSimilarLengths(lengths, step_size=16, seed=1)
    epochs = [list(sampler)]
    sampler.set_epoch(1)
    epochs.append(list(sampler))
    assert epochs[0] != epochs[1] == list(sampler)
    for pairs in epochs:
        assert sorted(pairs) == list(range(len(lengths)))
        steps = [[lengths[pair] for pair in pairs[start : start + 16]] for start in range(0, len(pairs), 16)]
        padded = sum(max(step) * len(step) for step in steps)
        assert sum(lengths) > 0.8 * padded  # in random order it would be half
        shorter_next = sum(one[0] > other[0] for one, other in pairwise(steps))
        assert 0.4 < shorter_next / len(steps) < 0.6


def test_untrainable_inputs_are_refused_in_one_line() -> None:
    from cluster.errors import LearnerError

    with pytest.raises(LearnerError, match="no prompt-completion pair"):
        train([], 3)
    with pytest.raises(LearnerError, match="cannot be split into micro-batches of 5"):
        train(successor_pairs(20), 3, micro_batch_size=5)
    with pytest.raises(LearnerError, match=r"step \d+ diverged"):
        train(successor_pairs(200), 30, weight_decay=1e30)
