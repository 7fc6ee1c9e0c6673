"""Which rank computes which micro-batches of a step: so that the busiest is done soon. Pure; every rank comes to the same."""

import math
from collections.abc import Sequence

from learner.batch.micro_batches import PASS_OVERHEAD_TOKENS, MicroBatchPlan, cut
from learner.batch.selection import Row

FINER = (1, 2, 4)
"""Into how many micro-batches a rank's share is cut, where fewer that fit into memory would leave ranks waiting."""


def plan_for_ranks(
    rows: Sequence[Row], *, num_ranks: int, max_padded_tokens: int, shares_prompts: bool
) -> list[MicroBatchPlan]:
    """Cut the rows of a step as learner.batch.micro_batches does, but finer where that has several ranks done sooner."""
    coarse = cut(rows, max_padded_tokens=max_padded_tokens, shares_prompts=shares_prompts)
    if num_ranks == 1:
        return coarse
    fair_share = math.ceil(sum(each.num_padded_tokens for each in coarse) / num_ranks)
    limits = [math.ceil(fair_share / parts) for parts in FINER]
    finer = [
        cut(rows, max_padded_tokens=limit, shares_prompts=shares_prompts)
        for limit in limits
        if limit < max_padded_tokens
    ]
    return min([coarse, *finer], key=lambda cuts: busiest(cuts, num_ranks))


def shares(cuts: Sequence[MicroBatchPlan], num_ranks: int) -> list[list[int]]:
    """Indices of each rank's micro-batches: every one is some rank's, and a rank may have none.

    The largest is given first, to whoever has the least so far: the busiest rank has no more than 4/3 of what it must
    (Graham 1969, "Bounds on multiprocessing timing anomalies").
    """
    found: list[list[int]] = [[] for _ in range(num_ranks)]
    costs = [0] * num_ranks
    for index in sorted(range(len(cuts)), key=lambda index: -_cost(cuts[index])):
        rank = costs.index(min(costs))
        found[rank].append(index)
        costs[rank] += _cost(cuts[index])
    return [sorted(indices) for indices in found]


def busiest(cuts: Sequence[MicroBatchPlan], num_ranks: int) -> int:
    """What the rank with the largest share computes, in positions and what passes cost besides."""
    return max(sum(_cost(cuts[index]) for index in indices) for indices in shares(cuts, num_ranks))


def idle_share(cuts: Sequence[MicroBatchPlan], num_ranks: int) -> float:
    """Share of the ranks' time in a step that they wait for the busiest, by the positions that they compute."""
    total = sum(_cost(each) for each in cuts)
    return 1 - total / (num_ranks * busiest(cuts, num_ranks)) if total else 0.0


def _cost(one: MicroBatchPlan) -> int:
    return one.num_padded_tokens + PASS_OVERHEAD_TOKENS
