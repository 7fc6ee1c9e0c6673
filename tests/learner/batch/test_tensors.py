from collections.abc import Sequence

import pytest

from cluster.types import Group
from learner.batch.micro_batches import plan_micro_batches
from learner.batch.selection import select
from learner.batch.tensors import MicroBatch, micro_batch_tensors
from learner.settings import LearnerSettings, LossType
from tests.learner.factories import group, updated_in_flight

pytestmark = pytest.mark.slow  # imports torch


def micro_batches(
    groups: Sequence[Group], *, tokens: int = 10_000, loss_type: LossType = "dapo", version: int = 0
) -> list[MicroBatch]:
    plain = LearnerSettings(scale_rewards="none")
    rows = select(groups, settings=plain, learner_version=version, max_staleness=0, temperature=0.7).rows
    plans = plan_micro_batches(rows, max_padded_tokens=tokens, shares_prompts=True)
    return micro_batch_tensors(plans, pad_token_id=2, loss_type=loss_type)


def test_prompts_are_padded_on_the_left_and_completions_on_the_right() -> None:
    (batch,) = micro_batches([group([1.0, 0.0], seed=1, prompt_length=3), group([1.0, 0.0], seed=2, prompt_length=5)])
    for ids, mask in zip(batch["prompt_ids"].tolist(), batch["prompt_mask"].tolist(), strict=True):
        assert mask == sorted(mask)
        assert all((token == 2) == (kept == 0) for token, kept in zip(ids, mask, strict=True))
    for ids, mask in zip(batch["completion_ids"].tolist(), batch["completion_mask"].tolist(), strict=True):
        assert mask == sorted(mask, reverse=True)
        assert all((token == 2) == (kept == 0) for token, kept in zip(ids, mask, strict=True))


@pytest.mark.parametrize("tokens", [1, 20, 30, 45, 70, 10_000])
def test_every_row_is_in_exactly_one_micro_batch(tokens: int) -> None:
    groups = [group([1.0, 0.0, 0.5, 0.25], seed=seed) for seed in range(2)]
    found = [
        tuple(token for token, kept in zip(ids, mask, strict=True) if kept)
        for batch in micro_batches(groups, tokens=tokens)
        for ids, mask in zip(batch["completion_ids"].tolist(), batch["completion_mask"].tolist(), strict=True)
    ]
    assert sorted(found) == sorted(completion.token_ids for each in groups for completion in each.completions)


@pytest.mark.parametrize("loss_type", ["grpo", "dr_grpo", "bnpo"])
def test_the_shares_of_the_micro_batches_add_up_to_one(loss_type: LossType) -> None:
    groups = [group([1.0, 0.0, 0.5], seed=seed) for seed in range(3)]
    shares = [batch["loss_share"].item() for batch in micro_batches(groups, tokens=40, loss_type=loss_type)]
    assert len(shares) > 1
    assert sum(shares) == pytest.approx(1.0)


def test_the_normaliser_counts_the_tokens_of_the_whole_step() -> None:
    groups = [group([1.0, 0.0, 0.5], seed=seed) for seed in range(3)]
    num_tokens = sum(len(completion.token_ids) for each in groups for completion in each.completions)
    assert {batch["num_items_in_batch"].item() for batch in micro_batches(groups, tokens=40)} == {num_tokens}


def test_rows_point_at_their_prompt() -> None:
    (batch,) = micro_batches([group([1.0, 0.0, 0.5], seed=seed) for seed in range(3)])
    assert len(batch["first_rows"]) == 3
    shared = batch["prompt_ids"][batch["first_rows"]][batch["prompt_of_row"]]
    assert shared.tolist() == batch["prompt_ids"].tolist()


def test_stale_tokens_are_input_but_masked_and_not_counted() -> None:
    mixed = updated_in_flight(group([1.0, 0.0, 0.5, 0.25]), [1, 0, 2, 1], old=3, new=4)
    lengths = [len(completion.token_ids) for completion in mixed.completions]
    (batch,) = micro_batches([mixed], version=4)
    assert sorted(batch["completion_mask"].sum(dim=1).tolist()) == sorted(lengths)
    fresh = [length - old for length, old in zip(lengths, [1, 0, 2, 1], strict=True) if length > old]
    assert sorted(batch["tool_mask"].sum(dim=1).tolist()) == sorted(fresh)
    assert batch["num_items_in_batch"].item() == sum(fresh)


def test_the_shares_of_bnpo_count_the_tokens_that_enter_the_loss() -> None:
    # Lengths are those of group(seed=0); the micro-batches hold one row each.
    mixed = updated_in_flight(group([1.0, 0.0]), [1, 0], old=0, new=1)
    fresh = [len(mixed.completions[0].token_ids) - 1, len(mixed.completions[1].token_ids)]
    shares = [batch["loss_share"].item() for batch in micro_batches([mixed], tokens=1, loss_type="bnpo", version=1)]
    assert sorted(shares) == pytest.approx(sorted(count / sum(fresh) for count in fresh))
