"""Reference computation of the learner's numbers: row by row, without padding and TRL."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from cluster.types import Completion, Group
from learner.batch.advantages import group_advantages
from learner.settings import LossType
from tests.learner.factories import MAX_COMPLETION_TOKENS, TEMPERATURE


@cache
def base_model(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def logprobs(
    model_folder: Path, completion: Completion, adapter: Path | None = None, *, temperature: float = TEMPERATURE
) -> list[float]:
    model = base_model(model_folder)
    if adapter is not None:  # changes the model
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32), adapter
        )
    tokens = torch.tensor([[*completion.prompt_ids, *completion.token_ids]])
    with torch.no_grad():
        scores = (model.eval()(tokens).logits[0, len(completion.prompt_ids) - 1 : -1] / temperature).log_softmax(-1)
    found: list[float] = scores.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0].tolist()
    return found


def sampled_by(model_folder: Path, group: Group, *, shift: float = 0.0) -> Group:
    """The group with the logprobs that a sampler of this model would have given, plus ``shift``."""
    return replace(
        group,
        completions=tuple(
            replace(each, sampler_logprobs=tuple(value + shift for value in logprobs(model_folder, each)))
            for each in group.completions
        ),
    )


def grpo_loss(
    model_folder: Path,
    groups: Sequence[Group],
    *,
    loss_type: LossType = "dapo",
    oldest_version: int = 0,
    adapter: Path | None = None,
    epsilon: float = 0.2,
) -> float:
    """The clipped objective over the tokens of a step that were sampled by ``oldest_version`` or a later policy."""
    advantages = group_advantages([group.rewards for group in groups], scale="group")
    rows: list[list[float]] = []  # summand of each token of each row
    for group, group_values in zip(groups, advantages, strict=True):
        for each, advantage in zip(group.completions, group_values, strict=True):
            row = []
            for now, sampled, version in zip(
                logprobs(model_folder, each, adapter), each.sampler_logprobs, each.token_versions, strict=True
            ):
                ratio = torch.tensor(now - sampled).exp().item()
                clipped = min(max(ratio, 1 - epsilon), 1 + epsilon)
                if version >= oldest_version:
                    row.append(-min(ratio * advantage, clipped * advantage))
            if row:
                rows.append(row)
    if loss_type == "grpo":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    total = sum(map(sum, rows))
    return total / (len(rows) * MAX_COMPLETION_TOKENS if loss_type == "dr_grpo" else sum(map(len, rows)))
