"""Assignment of micro-batches to ranks, compared with the best assignment, which is found by trying all assignments."""

import itertools
import random
from collections.abc import Sequence

import pytest

from learner.batch.micro_batches import PASS_OVERHEAD_TOKENS, MicroBatchPlan, plan_micro_batches
from learner.batch.rank_assignment import assign_to_ranks, idle_share, largest_rank_cost, plan_for_ranks
from learner.batch.selection import Row
from tests.learner.batch.test_micro_batches import row


def of_size(num_padded_tokens: int) -> MicroBatchPlan:
    return MicroBatchPlan(rows=(), num_padded_tokens=num_padded_tokens, num_padding_tokens=0)


def rows_of(num_prompts: int, num_completions: int, *, seed: int = 0) -> list[Row]:
    rng = random.Random(seed)
    return [row(prompt, rng.randint(50, 600)) for prompt in range(num_prompts) for _ in range(num_completions)]


def test_large_micro_batches_are_spread_over_ranks_and_small_ones_fill_up() -> None:
    assert assign_to_ranks([of_size(size) for size in (100, 900, 300, 400, 200)], 2) == [[0, 1], [2, 3, 4]]


def test_fewer_micro_batches_than_ranks_go_to_the_first_ranks() -> None:
    assert assign_to_ranks([of_size(5)], 3) == [[0], [], []]
    assert assign_to_ranks([], 2) == [[], []]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_every_micro_batch_is_assigned_and_no_rank_exceeds_the_optimum_by_more_than_a_third(
    seed: int, num_ranks: int
) -> None:
    rng = random.Random(seed)
    plans = [of_size(rng.randint(1, 3000)) for _ in range(rng.randint(1, 7))]
    assigned = assign_to_ranks(plans, num_ranks)
    assert sorted(index for indices in assigned for index in indices) == list(range(len(plans)))

    def slowest(ranks: Sequence[int]) -> int:
        costs = [0] * num_ranks
        for rank, one in zip(ranks, plans, strict=True):
            costs[rank] += one.num_padded_tokens + PASS_OVERHEAD_TOKENS
        return max(costs)

    best = min(slowest(ranks) for ranks in itertools.product(range(num_ranks), repeat=len(plans)))
    assert best <= largest_rank_cost(plans, num_ranks) <= 4 / 3 * best


def test_a_step_that_fits_into_one_pass_is_split_over_all_ranks() -> None:
    rows = rows_of(8, 8)
    single = largest_rank_cost(plan_micro_batches(rows, max_padded_tokens=100_000, shares_prompts=True), 1)
    for num_ranks in (2, 4, 8):
        plans = plan_for_ranks(rows, num_ranks=num_ranks, max_padded_tokens=100_000, shares_prompts=True)
        assert largest_rank_cost(plans, num_ranks) < 1.2 * single / num_ranks
        ids = [each.completion_id for one in plans for each in one.rows]
        assert sorted(ids) == sorted(each.completion_id for each in rows)


def test_the_idle_share_is_the_time_that_ranks_wait_for_the_slowest() -> None:
    plans = [of_size(size - PASS_OVERHEAD_TOKENS) for size in (300, 100, 100)]
    assert idle_share(plans, 2) == pytest.approx(1 - 500 / 600)
    assert idle_share(plans, 1) == 0.0
    assert idle_share([], 2) == 0.0


@pytest.mark.parametrize("max_padded_tokens", [700, 3000])
def test_the_token_limit_holds_for_every_number_of_ranks_and_one_rank_changes_nothing(max_padded_tokens: int) -> None:
    rows = rows_of(4, 6, seed=1)
    single = plan_micro_batches(rows, max_padded_tokens=max_padded_tokens, shares_prompts=True)
    assert plan_for_ranks(rows, num_ranks=1, max_padded_tokens=max_padded_tokens, shares_prompts=True) == single
    for num_ranks in (2, 3, 5):
        plans = plan_for_ranks(rows, num_ranks=num_ranks, max_padded_tokens=max_padded_tokens, shares_prompts=True)
        assert all(one.num_padded_tokens <= max_padded_tokens for one in plans)
        assert largest_rank_cost(plans, num_ranks) <= largest_rank_cost(single, num_ranks)
