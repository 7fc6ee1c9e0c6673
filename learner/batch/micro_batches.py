"""Where a step is cut into micro-batches: so that each fits into memory, and all together compute as little as they can. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from learner.batch.selection import Row

PASS_OVERHEAD_TOKENS = 64
"""What a forward and backward pass costs besides its tokens, in tokens: against cutting too fine; only its order matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchPlan:
    """The rows of one micro-batch, and how many positions its forward pass computes."""

    rows: tuple[Row, ...]
    num_padded_tokens: int  # padding included
    num_padding_tokens: int


def cut(rows: Sequence[Row], *, max_padded_tokens: int, shares_prompts: bool) -> list[MicroBatchPlan]:
    """Cut the rows of a step so that every one is in exactly one micro-batch, and the sum of positions is small.

    A micro-batch holds rows of one temperature, because logprobs are taken at one, and no more than ``max_padded_tokens``,
    unless a single row has more. With ``shares_prompts`` a prompt is computed once for all its rows in a micro-batch (see
    learner.shared_prompt). Rows of one prompt stay neighbours, from short to long in one prompt and from long to short in the
    next, so that neighbours are of similar length; between them the cheapest cuts are found by dynamic programming.
    """
    ordered = _ordered(rows)
    prompts = [row.prompt_ids for row in ordered]
    begins_prompt = [index == 0 or prompts[index] != prompts[index - 1] for index in range(len(ordered))]
    costs, begins = [0], [0]  # of the first n rows: their cost, and where the last micro-batch of them begins
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
            size = _positions(end - begin, num_prompts, longest_prompt, longest_completion, shares_prompts)
            if size > max_padded_tokens and begin < end - 1:
                break
            cost = costs[begin] + size + PASS_OVERHEAD_TOKENS
            if best < 0 or cost < best:
                best, begin_of_best = cost, begin
        costs.append(best)
        begins.append(begin_of_best)
    found = []
    end = len(ordered)
    while end > 0:
        found.append(_cut(ordered[begins[end] : end], shares_prompts))
        end = begins[end]
    return found[::-1]


def padding_share(cuts: Iterable[MicroBatchPlan]) -> float:
    """Share of the positions of a step that are computed for nothing."""
    sizes = [(each.num_padding_tokens, each.num_padded_tokens) for each in cuts]
    return sum(padding for padding, _ in sizes) / max(1, sum(size for _, size in sizes))


def _ordered(rows: Sequence[Row]) -> list[Row]:
    groups: dict[tuple[float, int, tuple[int, ...]], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.temperature, len(row.prompt_ids), row.prompt_ids), []).append(row)
    ordered: list[Row] = []
    for number, key in enumerate(sorted(groups)):
        ordered.extend(sorted(groups[key], key=lambda row: len(row.token_ids), reverse=number % 2 == 1))
    return ordered


def _positions(
    num_rows: int, num_prompts: int, longest_prompt: int, longest_completion: int, shares_prompts: bool
) -> int:
    if shares_prompts and num_prompts < num_rows:
        # The last token of a prompt is read with each completion: the first token of that is predicted from it.
        return num_prompts * (longest_prompt - 1) + num_rows * (longest_completion + 1)
    return num_rows * (longest_prompt + longest_completion)


def _cut(rows: Sequence[Row], shares_prompts: bool) -> MicroBatchPlan:
    prompts = {row.prompt_ids for row in rows}
    longest_prompt = max(map(len, prompts))
    longest_completion = max(len(row.token_ids) for row in rows)
    num_padded_tokens = _positions(len(rows), len(prompts), longest_prompt, longest_completion, shares_prompts)
    read = prompts if shares_prompts and len(prompts) < len(rows) else [row.prompt_ids for row in rows]
    num_padding_tokens = sum(longest_prompt - len(prompt) for prompt in read)
    num_padding_tokens += sum(longest_completion - len(row.token_ids) for row in rows)
    return MicroBatchPlan(rows=tuple(rows), num_padded_tokens=num_padded_tokens, num_padding_tokens=num_padding_tokens)
