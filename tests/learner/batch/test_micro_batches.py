"""Micro-batches compared with the cheapest split, which is known or found by trying all splits."""

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from learner.batch.micro_batches import PASS_OVERHEAD_TOKENS, MicroBatchPlan, padding_share, plan_micro_batches
from learner.batch.selection import Row


def row(prompt: int, length: int, *, prompt_length: int = 10, temperature: float = 1.0) -> Row:
    return Row(
        completion_id=f"{prompt}-{length}",
        prompt_ids=(prompt,) * prompt_length,
        token_ids=(1,) * length,
        sampler_logprobs=(-1.0,) * length,
        is_fresh=(True,) * length,
        advantage=0.0,
        temperature=temperature,
    )


def completion_lengths(plans: Sequence[MicroBatchPlan]) -> list[list[int]]:
    return [[len(row.token_ids) for row in plan.rows] for plan in plans]


def test_completions_of_one_prompt_that_fit_are_one_micro_batch_with_the_prompt_counted_once() -> None:
    (shared,) = plan_micro_batches([row(1, 20), row(1, 30)], max_padded_tokens=1000, shares_prompts=True)
    # The prompt without its last token is counted once; a row is this last token and a completion, padded to 30 tokens.
    assert shared.num_padded_tokens == 9 + 2 * (1 + 30)
    assert shared.num_padding_tokens == 10
    (single,) = plan_micro_batches([row(1, 20), row(1, 30)], max_padded_tokens=1000, shares_prompts=False)
    assert (single.num_padded_tokens, single.num_padding_tokens) == (2 * (10 + 30), 10)


def test_a_long_completion_gets_its_own_pass_if_that_is_cheaper_than_padding() -> None:
    rows = [row(1, 20), row(1, 2000), row(1, 22), row(1, 21)]
    assert completion_lengths(plan_micro_batches(rows, max_padded_tokens=100_000, shares_prompts=True)) == [
        [20, 21, 22],
        [2000],
    ]


def test_long_completions_of_neighbouring_prompts_share_a_micro_batch() -> None:
    rows = [row(prompt, length) for prompt in (1, 2) for length in (10, 1000)]
    plans = plan_micro_batches(rows, max_padded_tokens=100_000, shares_prompts=True)
    assert completion_lengths(plans) == [[10], [1000, 1000], [10]]


@pytest.mark.parametrize("max_padded_tokens", [40, 100, 300, 1000])
def test_no_micro_batch_is_larger_than_allowed_unless_it_is_a_single_row(max_padded_tokens: int) -> None:
    rng = random.Random(max_padded_tokens)
    rows = [row(prompt, rng.randint(1, 90)) for prompt in range(6) for _ in range(5)]
    plans = plan_micro_batches(rows, max_padded_tokens=max_padded_tokens, shares_prompts=True)
    assert all(plan.num_padded_tokens <= max_padded_tokens or len(plan.rows) == 1 for plan in plans)
    assert sorted(member.completion_id for plan in plans for member in plan.rows) == sorted(
        member.completion_id for member in rows
    )


def test_no_micro_batch_mixes_temperatures() -> None:
    rows = [row(prompt, 5, temperature=temperature) for prompt in (1, 2) for temperature in (1.3, 1.0, 1.3)]
    plans = plan_micro_batches(rows, max_padded_tokens=1000, shares_prompts=True)
    assert sorted(tuple(member.temperature for member in plan.rows) for plan in plans) == [(1.0,) * 2, (1.3,) * 4]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("shares_prompts", [True, False])
def test_no_other_split_of_the_same_order_is_cheaper(seed: int, shares_prompts: bool) -> None:
    rng = random.Random(seed)
    rows = [row(prompt, rng.randint(1, 900)) for prompt in range(3) for _ in range(3)]
    found = plan_micro_batches(rows, max_padded_tokens=2000, shares_prompts=shares_prompts)
    ordered = [member for plan in found for member in plan.rows]

    def cost_of(chunk: Sequence[Row]) -> float:
        longest = max(len(member.token_ids) for member in chunk)
        num_prompts = len({member.prompt_ids for member in chunk})
        if shares_prompts and num_prompts < len(chunk):
            size = num_prompts * 9 + len(chunk) * (longest + 1)
        else:
            size = len(chunk) * (10 + longest)
        return float("inf") if size > 2000 and len(chunk) > 1 else size + PASS_OVERHEAD_TOKENS

    def total(starts: Sequence[int]) -> float:
        return sum(cost_of(ordered[start:end]) for start, end in itertools.pairwise([0, *starts, len(ordered)]))

    inner = range(1, len(ordered))
    best = min(total(starts) for count in range(len(ordered)) for starts in itertools.combinations(inner, count))
    assert sum(plan.num_padded_tokens + PASS_OVERHEAD_TOKENS for plan in found) == best


def test_padding_share_is_taken_over_all_micro_batches_of_a_step() -> None:
    plans = plan_micro_batches([row(1, 20), row(1, 30)], max_padded_tokens=1000, shares_prompts=True)
    assert padding_share(plans) == pytest.approx(10 / 71)
    assert padding_share([]) == 0.0
    assert plan_micro_batches([], max_padded_tokens=10, shares_prompts=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("max_padded_tokens", [60, 25])
def test_no_pass_computes_logits_at_more_tokens_than_allowed(
    max_padded_tokens: int, model_folder: Path, make_learner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.trainer import utils

    from tests.learner.factories import group

    learner = make_learner(micro_batch_tokens=max_padded_tokens, kl_coefficient=0.1)
    num_tokens: list[int] = []
    fused = utils._ChunkedLogProbFunction.apply

    def counting(hidden: Any, *arguments: Any) -> Any:
        num_tokens.append(hidden.size(0))
        return fused(hidden, *arguments)

    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", counting)
    head = learner._trainer.model.get_output_embeddings()
    head.register_forward_hook(lambda _module, inputs, _output: num_tokens.append(inputs[0][..., 0].numel()))
    _, report = learner.step([group([1.0, 0.0, 0.5, 0.2, 0.1], seed=seed) for seed in range(3)])
    assert report.metrics["num_micro_batches"] > 2
    assert len(num_tokens) >= 2 * report.metrics["num_micro_batches"]  # with adapter and without
    assert 10 < max(num_tokens) <= max_padded_tokens
