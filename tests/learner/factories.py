"""Groups, plans and settings of learners."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.types import Completion, FinishReason, Group, Problem, VersionSpan
from grader.fake import grade_of
from learner.lora_settings import LoraSettings
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings

VOCABULARY = 96
TEMPERATURE = 0.7
MAX_COMPLETION_TOKENS = 8


def group(
    rewards: Sequence[float | None], *, seed: int = 0, prompt_length: int | None = None, logprob: float = -4.5
) -> Group:
    """A group with random tokens; every token was sampled with the same ``logprob``."""
    rng = random.Random(seed)
    prompt_ids = tuple(rng.randrange(3, VOCABULARY) for _ in range(prompt_length or rng.randint(4, 9)))
    completions = []
    for index in range(len(rewards)):
        token_ids = tuple(rng.randrange(3, VOCABULARY) for _ in range(rng.randint(2, MAX_COMPLETION_TOKENS)))
        completions.append(
            Completion(
                id=f"g{seed}-c{index}",
                group_id=f"g{seed}",
                problem_id="p",
                index=index,
                prompt_ids=prompt_ids,
                token_ids=token_ids,
                sampler_logprobs=(logprob,) * len(token_ids),
                text="",
                finish_reason=FinishReason.STOP,
                policy_version=0,
                seconds=0.1,
            )
        )
    return Group(
        id=f"g{seed}",
        problem=Problem(id="p", statement="", signature="", tests=""),
        completions=tuple(completions),
        grades=tuple(None if reward is None else grade_of(reward) for reward in rewards),
    )


def updated_in_flight(group: Group, num_old_tokens: Sequence[int], *, old: int, new: int) -> Group:
    """The group with the first tokens of each completion sampled by policy ``old`` and the others by ``new``."""
    return replace(
        group,
        completions=tuple(
            replace(
                each,
                policy_version=new,
                version_spans=(
                    VersionSpan(policy_version=old, num_tokens=count),
                    VersionSpan(policy_version=new, num_tokens=len(each.token_ids) - count),
                ),
            )
            for each, count in zip(group.completions, num_old_tokens, strict=True)
        ),
    )


def plan(model_folder: Path, checkpoints_dir: Path, **changes: Any) -> LearnerPlan:
    return replace(
        LearnerPlan(
            model=str(model_folder),
            temperature=TEMPERATURE,
            max_completion_tokens=MAX_COMPLETION_TOKENS,
            max_staleness=1000,  # all groups here are of version 0
            max_steps=20,
            seed=0,
            checkpoints_dir=checkpoints_dir,
            probe_ids=(),
        ),
        **changes,
    )


def settings(**changes: Any) -> LearnerSettings:
    """Settings that learn visibly in a few steps, without dropout unless a test sets it."""
    dropout = changes.pop("dropout", 0.0)
    lora = LoraSettings(r=8, alpha=16, dropout=dropout)
    return LearnerSettings(**{"lora": lora, "learning_rate": 1e-2, **changes})
