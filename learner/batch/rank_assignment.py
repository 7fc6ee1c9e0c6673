"""Assignment of micro-batches to ranks, such that the slowest rank finishes early. Pure: each rank computes the same one."""

import math
from collections.abc import Sequence

from learner.batch.micro_batches import PASS_OVERHEAD_TOKENS, MicroBatchPlan, plan_micro_batches
from learner.batch.selection import Row

MICRO_BATCHES_PER_RANK = (1, 2, 4)
"""Numbers of micro-batches per rank to try, besides the fewest micro-batches that fit into memory."""


def plan_for_ranks(
    rows: Sequence[Row], *, num_ranks: int, max_padded_tokens: int, shares_prompts: bool
) -> list[MicroBatchPlan]:
    """Split the rows of a step with ``plan_micro_batches``, such that the slowest of the ranks finishes early.

    For several ranks, smaller micro-batches are tried as well: they cost more in total but can be shared more evenly.
    """
    coarse = plan_micro_batches(rows, max_padded_tokens=max_padded_tokens, shares_prompts=shares_prompts)
    if num_ranks == 1:
        return coarse
    fair_share = math.ceil(sum(plan.num_padded_tokens for plan in coarse) / num_ranks)
    limits = [math.ceil(fair_share / number) for number in MICRO_BATCHES_PER_RANK]
    finer = [
        plan_micro_batches(rows, max_padded_tokens=limit, shares_prompts=shares_prompts)
        for limit in limits
        if limit < max_padded_tokens
    ]
    return min([coarse, *finer], key=lambda plans: largest_rank_cost(plans, num_ranks))


def assign_to_ranks(plans: Sequence[MicroBatchPlan], num_ranks: int) -> list[list[int]]:
    """Return the indices of each rank's micro-batches; a rank may have none.

    Micro-batches are assigned by descending cost, each to the rank with the lowest cost so far. The highest cost of a rank is at
    most 4/3 of the optimum (Graham 1969, "Bounds on multiprocessing timing anomalies").
    """
    assigned: list[list[int]] = [[] for _ in range(num_ranks)]
    costs = [0] * num_ranks
    for index in sorted(range(len(plans)), key=lambda index: -_cost(plans[index])):
        rank = costs.index(min(costs))
        assigned[rank].append(index)
        costs[rank] += _cost(plans[index])
    return [sorted(indices) for indices in assigned]


def largest_rank_cost(plans: Sequence[MicroBatchPlan], num_ranks: int) -> int:
    """Highest cost of a rank, in tokens: padded tokens and pass overheads."""
    return max(sum(_cost(plans[index]) for index in indices) for indices in assign_to_ranks(plans, num_ranks))


def idle_share(plans: Sequence[MicroBatchPlan], num_ranks: int) -> float:
    """Share of the ranks' time that is spent waiting for the slowest rank, estimated from the costs."""
    total = sum(_cost(plan) for plan in plans)
    return 1 - total / (num_ranks * largest_rank_cost(plans, num_ranks)) if total else 0.0


def _cost(plan: MicroBatchPlan) -> int:
    return plan.num_padded_tokens + PASS_OVERHEAD_TOKENS
