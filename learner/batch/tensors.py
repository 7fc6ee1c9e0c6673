"""Rows -> the tensors that TRL's loss reads, in micro-batches that together are exactly one step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from learner.batch.micro_batches import MicroBatchPlan
from learner.batch.selection import Row
from learner.settings import LossType

MicroBatch = dict[str, Tensor]
"""What ``GRPOTrainer._compute_loss`` reads, for B completions of P prompt and T completion tokens::

    prompt_ids, prompt_mask            [B, P]  padded on the left
    completion_ids, completion_mask    [B, T]  padded on the right
    tool_mask                          [B, T]  0 for tokens that are read and not learned from: those too old for the loss
    advantages                         [B]
    sampling_per_token_logps           [B, T]  the sampler's logprobs
    old_per_token_logps                [B, T]  of the policy that the ratio compares with: the sampler's too
    num_items_in_batch                 []      completion tokens of the whole step that enter the loss
    loss_share                         []      ours: what the micro-batch's loss counts in the step's (see _loss_share)
    token_share, row_share             []      ours: its share of the step's tokens that enter the loss, and of its rows
    weight                             []      ours: 1, or 0 where it is only computed and counts for nothing (see padded)
    temperature                        []      ours: at which all its completions were sampled
    first_rows, prompt_of_row     [U], [B]     ours: one row per distinct prompt, and the distinct prompt of each row

A stale token is not taken out of ``completion_mask``, which is also the attention mask: the tokens after it were sampled by a
policy that read it.
"""


def micro_batches(cuts: Sequence[MicroBatchPlan], *, pad_token_id: int, loss_type: LossType) -> list[MicroBatch]:
    """The tensors of each micro-batch of a step."""
    rows = [row for each in cuts for row in each.rows]
    num_tokens = sum(row.num_fresh for row in rows)
    return [
        {
            **_tensors(each.rows, pad_token_id),
            "num_items_in_batch": torch.tensor(float(num_tokens)),
            "loss_share": torch.tensor(_loss_share(each.rows, loss_type, num_rows=len(rows), num_tokens=num_tokens)),
            "token_share": torch.tensor(sum(row.num_fresh for row in each.rows) / num_tokens),
            "row_share": torch.tensor(len(each.rows) / len(rows)),
            "weight": torch.tensor(1.0),
            "temperature": torch.tensor(each.rows[0].temperature, dtype=torch.float64),
        }
        for each in cuts
    ]


def padded(share: Sequence[MicroBatch], filler: MicroBatch, length: int) -> list[MicroBatch]:
    """A rank's micro-batches, and as many times the filler, with no weight, as it takes for ranks to compute equally many."""
    return [*share, *({**filler, "weight": torch.tensor(0.0)} for _ in range(length - len(share)))]


def _loss_share(chunk: Sequence[Row], loss_type: LossType, *, num_rows: int, num_tokens: int) -> float:
    """By what the loss that TRL computes for a micro-batch is weighed, so that the sum is the loss of the step as one batch.

    dapo, cispo and vespo divide by the tokens of the step already; bnpo by the tokens, the others by the rows of the micro-batch.
    Tokens are those that enter the loss, here as in TRL.
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
