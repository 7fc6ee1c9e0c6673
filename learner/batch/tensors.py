"""Tensors of micro-batches, as TRL's loss reads them; together they are exactly one step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.batch.micro_batches import MicroBatchPlan
from learner.batch.selection import Row
from learner.settings import LossType

MicroBatch = dict[str, Tensor]
"""Inputs of ``GRPOTrainer._compute_loss`` for B completions of P prompt and T completion tokens, and Caravan's own::

    prompt_ids, prompt_mask            [B, P]  padded on the left
    completion_ids, completion_mask    [B, T]  padded on the right
    tool_mask                          [B, T]  0 for tokens that are input and do not enter the loss: stale ones
    advantages                         [B]
    sampling_per_token_logps           [B, T]  the sampler's logprobs
    old_per_token_logps                [B, T]  denominator of the ratio: the sampler's logprobs too
    num_items_in_batch                 []      completion tokens of the whole step that enter the loss
    loss_share                         []      own: factor of the micro-batch's loss in the step's (see _loss_share)
    token_share, row_share             []      own: share of the step's tokens that enter the loss, and of its rows
    weight                             []      own: 1, or 0 for a filler (see pad_with_zero_weight)
    temperature                        []      own: sampling temperature of all its completions
    first_rows, prompt_of_row     [U], [B]     own: one row per distinct prompt, and the index of each row's prompt in it

Stale tokens stay in ``completion_mask``, which is also the attention mask: the tokens after them were sampled with them as
context.
"""


def micro_batch_tensors(plans: Sequence[MicroBatchPlan], *, pad_token_id: int, loss_type: LossType) -> list[MicroBatch]:
    """Build the tensors of each micro-batch of a step."""
    rows = [row for plan in plans for row in plan.rows]
    num_tokens = sum(row.num_fresh for row in rows)
    return [
        {
            **_tensors(plan.rows, pad_token_id),
            "num_items_in_batch": torch.tensor(float(num_tokens)),
            "loss_share": torch.tensor(_loss_share(plan.rows, loss_type, num_rows=len(rows), num_tokens=num_tokens)),
            "token_share": torch.tensor(sum(row.num_fresh for row in plan.rows) / num_tokens),
            "row_share": torch.tensor(len(plan.rows) / len(rows)),
            "weight": torch.tensor(1.0),
            "temperature": torch.tensor(plan.rows[0].temperature, dtype=torch.float64),
        }
        for plan in plans
    ]


def pad_with_zero_weight(micro_batches: Sequence[MicroBatch], filler: MicroBatch, length: int) -> list[MicroBatch]:
    """Pad a rank's micro-batches to ``length`` with copies of a filler of weight 0, so that all ranks compute equally many."""
    return [*micro_batches, *({**filler, "weight": torch.tensor(0.0)} for _ in range(length - len(micro_batches)))]


def _loss_share(chunk: Sequence[Row], loss_type: LossType, *, num_rows: int, num_tokens: int) -> float:
    """Factor of a micro-batch's loss in TRL: the sum of the losses times their factors is the loss of the step as one batch.

    TRL's dapo, cispo and vespo divide by the step's tokens already, bnpo by the micro-batch's tokens, the others by its rows.
    Only tokens that enter the loss count, here and in TRL.
    """
    if loss_type in ("dapo", "cispo", "vespo"):
        return 1.0
    if loss_type == "bnpo":
        return sum(row.num_fresh for row in chunk) / num_tokens
    return len(chunk) / num_rows


def _tensors(chunk: Sequence[Row], pad_token_id: int) -> MicroBatch:
    num_prompt_tokens = max(len(row.prompt_ids) for row in chunk)
    num_completion_tokens = max(len(row.token_ids) for row in chunk)
    prompt_ids = torch.full((len(chunk), num_prompt_tokens), pad_token_id)
    prompt_mask = torch.zeros_like(prompt_ids)
    completion_ids = torch.full((len(chunk), num_completion_tokens), pad_token_id)
    completion_mask = torch.zeros_like(completion_ids)
    loss_mask = torch.zeros_like(completion_ids)
    sampler_logprobs = torch.zeros(completion_ids.shape)
    for index, row in enumerate(chunk):
        prompt_ids[index, num_prompt_tokens - len(row.prompt_ids) :] = torch.tensor(row.prompt_ids)
        prompt_mask[index, num_prompt_tokens - len(row.prompt_ids) :] = 1
        completion_ids[index, : len(row.token_ids)] = torch.tensor(row.token_ids)
        completion_mask[index, : len(row.token_ids)] = 1
        loss_mask[index, : len(row.token_ids)] = torch.tensor(row.is_fresh)
        sampler_logprobs[index, : len(row.token_ids)] = torch.tensor(row.sampler_logprobs)
    prompts = list(dict.fromkeys(row.prompt_ids for row in chunk))
    prompt_of_row = [prompts.index(row.prompt_ids) for row in chunk]
    return {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "tool_mask": loss_mask,
        "advantages": torch.tensor([row.advantage for row in chunk]),
        "sampling_per_token_logps": sampler_logprobs,
        "old_per_token_logps": sampler_logprobs,
        "first_rows": torch.tensor([prompt_of_row.index(number) for number in range(len(prompts))]),
        "prompt_of_row": torch.tensor(prompt_of_row),
    }
