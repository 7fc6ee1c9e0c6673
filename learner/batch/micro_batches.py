"""Micro-batches of a step: each fits into memory, and all together compute few padded tokens. Pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from learner.batch.selection import Row

PASS_OVERHEAD_TOKENS = 64
"""Fixed cost of a forward and backward pass, in tokens; it prevents many tiny passes, and only its order of magnitude matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchPlan:
    """The rows of one micro-batch, and the size of its forward pass."""

    rows: tuple[Row, ...]
    num_padded_tokens: int  # tokens that the forward pass computes, padding included
    num_padding_tokens: int  # padding among them


def plan_micro_batches(rows: Sequence[Row], *, max_padded_tokens: int, shares_prompts: bool) -> list[MicroBatchPlan]:
    """Split the rows of a step into micro-batches with a small sum of padded tokens; each row is in exactly one.

    All rows of a micro-batch have the same temperature, because logprobs are computed at one temperature. A micro-batch has at
    most ``max_padded_tokens``, or a single row that is longer. With ``shares_prompts`` a prompt is computed once for all its
    rows in a micro-batch (see learner.training.shared_prompt).

    Rows of one prompt stay adjacent, sorted by ascending length in one prompt and by descending length in the next, so that
    neighbours have similar lengths. Dynamic programming then finds the cheapest split of this order.
    """
    ordered = _ordered(rows)
    prompts = [row.prompt_ids for row in ordered]
    begins_prompt = [index == 0 or prompts[index] != prompts[index - 1] for index in range(len(ordered))]
    costs, begins = [0], [0]  # for the first n rows: their cost, and the start of their last micro-batch
    for end in range(1, len(ordered) + 1):
        best, begin_of_best = -1, end - 1
        num_prompts = longest_prompt = longest_completion = 0
        for begin in range(end - 1, -1, -1):
            row = ordered[begin]
            if row.temperature != ordered[end - 1].temperature:
                break
            # The prompt of the rows so far was counted with the last of them.
            num_prompts += begin == end - 1 or begins_prompt[begin + 1]
            longest_prompt = max(longest_prompt, len(row.prompt_ids))
            longest_completion = max(longest_completion, len(row.token_ids))
            size = _padded_tokens(end - begin, num_prompts, longest_prompt, longest_completion, shares_prompts)
            if size > max_padded_tokens and begin < end - 1:
                break
            cost = costs[begin] + size + PASS_OVERHEAD_TOKENS
            if best < 0 or cost < best:
                best, begin_of_best = cost, begin
        costs.append(best)
        begins.append(begin_of_best)
    plans = []
    end = len(ordered)
    while end > 0:
        plans.append(_plan(ordered[begins[end] : end], shares_prompts))
        end = begins[end]
    return plans[::-1]


def padding_share(plans: Iterable[MicroBatchPlan]) -> float:
    """Share of padding among the padded tokens of a step."""
    sizes = [(plan.num_padding_tokens, plan.num_padded_tokens) for plan in plans]
    return sum(padding for padding, _ in sizes) / max(1, sum(size for _, size in sizes))


def _ordered(rows: Sequence[Row]) -> list[Row]:
    groups: dict[tuple[float, int, tuple[int, ...]], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.temperature, len(row.prompt_ids), row.prompt_ids), []).append(row)
    ordered: list[Row] = []
    for number, key in enumerate(sorted(groups)):
        ordered.extend(sorted(groups[key], key=lambda row: len(row.token_ids), reverse=number % 2 == 1))
    return ordered


def _padded_tokens(
    num_rows: int, num_prompts: int, longest_prompt: int, longest_completion: int, shares_prompts: bool
) -> int:
    if shares_prompts and num_prompts < num_rows:
        # The last prompt token is computed with each completion: it predicts the completion's first token.
        return num_prompts * (longest_prompt - 1) + num_rows * (longest_completion + 1)
    return num_rows * (longest_prompt + longest_completion)


def _plan(rows: Sequence[Row], shares_prompts: bool) -> MicroBatchPlan:
    distinct = {row.prompt_ids for row in rows}
    longest_prompt = max(map(len, distinct))
    longest_completion = max(len(row.token_ids) for row in rows)
    computed = distinct if shares_prompts and len(distinct) < len(rows) else [row.prompt_ids for row in rows]
    num_padding_tokens = sum(longest_prompt - len(prompt) for prompt in computed)
    num_padding_tokens += sum(longest_completion - len(row.token_ids) for row in rows)
    return MicroBatchPlan(
        rows=tuple(rows),
        num_padded_tokens=_padded_tokens(len(rows), len(distinct), longest_prompt, longest_completion, shares_prompts),
        num_padding_tokens=num_padding_tokens,
    )
