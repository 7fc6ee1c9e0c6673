"""The learner's numbers, computed a second time: row by row, without padding, and without TRL."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cluster.types import Completion, Group
from learner.advantages import group_advantages
from tests.learner.made import TEMPERATURE


def logprobs(model_folder: Path, completion: Completion, adapter: Path | None = None) -> list[float]:
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    tokens = torch.tensor([[*completion.prompt_ids, *completion.token_ids]])
    with torch.no_grad():
        scores = (model.eval()(tokens).logits[0, len(completion.prompt_ids) - 1 : -1] / TEMPERATURE).log_softmax(-1)
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


def grpo_loss(model_folder: Path, groups: Sequence[Group], *, epsilon: float = 0.2) -> float:
    """The clipped objective over all tokens of a step, divided by their number (dapo)."""
    advantages = group_advantages([group.rewards for group in groups], scale="group")
    terms = []
    for group, group_values in zip(groups, advantages, strict=True):
        for each, advantage in zip(group.completions, group_values, strict=True):
            for now, sampled in zip(logprobs(model_folder, each), each.sampler_logprobs, strict=True):
                ratio = torch.tensor(now - sampled).exp().item()
                clipped = min(max(ratio, 1 - epsilon), 1 + epsilon)
                terms.append(-min(ratio * advantage, clipped * advantage))
    return sum(terms) / len(terms)
