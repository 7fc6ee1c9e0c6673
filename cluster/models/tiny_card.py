"""Measurement of the tiny model on the held-out problems before GRPO, and its model card."""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from cluster.types import FinishReason, Grade, Problem, Verdict
from grader.grade import Grader
from grader.settings import GraderSettings
from learner.sft.examples import SftSchedule
from rollout.prompt import PromptRenderer
from rollout.prompt_settings import PromptSettings

MAX_COMPLETION_TOKENS = 96
BATCH = 100  # completions sampled at once

CARD = """# tiny

A Qwen2-architecture model of 1.8 million parameters with a byte-level BPE tokenizer of 1,024 tokens, digits split
singly and no chat template. It exists so that a whole GRPO run fits on two CPU cores; it has no other use.

Made by `python -m cluster.models.tiny`: {schedule.num_steps} supervised steps of {schedule.batch_size} pairs, AdamW at
{schedule.learning_rate:g} with a cosine, seed {schedule.seed}, float32, saved in bfloat16. Each pair is the rendered
prompt of a built-in problem and the body of its reference solution. The loss is that of the completions, with label
smoothing {schedule.label_smoothing:g}, plus {schedule.prompt_loss_weight:g} times that of the prompts. Tokenizer and
model have seen the {num_training:,} training problems only.

The {num_held_out} held-out problems are `split(builtin_problems(), held_out={num_held_out}, seed={split_seed})[1]`,
with `split` of `cluster.problems.dataset`; `configs/demo.yaml` uses the same. They come from the same families and templates as
the training problems, though no statement and no solution is shared: what is measured is how well the model writes such
functions, not how it solves new kinds of tasks.

| before any GRPO | |
|---|---|
| held-out mean reward | {reward:.3f} ± {error:.3f} (standard error over problems) |
| completions that solve their problem | {solved:.1%} |
| measured on | {num_completions:,} completions at temperature 1, at most {max_tokens} tokens each |
| verdicts | {shares} |

Sampled with transformers; default reward profile, programs of one line allowed. The model is weak because its
training is short and because label smoothing flattens its distribution: at temperature 1 it often makes mistakes,
and greedy decoding does far better. Much of what GRPO teaches it is to make fewer of these mistakes.

Licence: Apache-2.0, like the rest of Caravan.
"""


def measure(
    folder: Path,
    problems: Sequence[Problem],
    *,
    completions_per_problem: int,
    temperature: float = 1.0,
    on_batch: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[list[Grade]]:
    """Sample completions with transformers and a fixed seed, and grade them; temperature 0 is greedy.

    Programs of one line are rewarded, since most solutions have no more. Raises ToolchainError without an OCaml compiler.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    asked = [problem for problem in problems for _ in range(completions_per_problem)]
    grades: list[Grade] = []
    with Grader(GraderSettings(min_code_lines=1)) as grader:
        for start in range(0, len(asked), BATCH):
            batch = asked[start : start + BATCH]
            for problem, (text, finish_reason) in zip(
                batch, _sample(model, tokenizer, batch, temperature), strict=True
            ):
                grades.append(grader.grade(problem, text, finish_reason))
            on_batch(len(grades), len(asked))
    return [grades[i : i + completions_per_problem] for i in range(0, len(grades), completions_per_problem)]


def _sample(
    model: Any, tokenizer: Any, problems: Sequence[Problem], temperature: float
) -> list[tuple[str, FinishReason]]:
    import torch

    renderer = PromptRenderer(tokenizer, PromptSettings(), max_prompt_tokens=1024, today=date.today())
    prompts = [renderer.render(problem).token_ids for problem in problems]
    width = max(map(len, prompts))
    input_ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
    for row, prompt in enumerate(prompts):
        input_ids[row, width - len(prompt) :] = torch.tensor(prompt)
    how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature > 0 else {"do_sample": False}
    sampled = model.generate(
        input_ids=input_ids,
        attention_mask=(input_ids != tokenizer.pad_token_id).long(),
        max_new_tokens=MAX_COMPLETION_TOKENS,
        **how,
    )[:, width:]
    return [
        (
            tokenizer.decode(row, skip_special_tokens=True),
            FinishReason.STOP if tokenizer.eos_token_id in row else FinishReason.LENGTH,
        )
        for row in sampled
    ]


def card(schedule: SftSchedule, held_out: Sequence[Sequence[Grade]], *, num_training: int, split_seed: int) -> str:
    """The model card as Markdown: training and measured results."""
    grades = [grade for group in held_out for grade in group]
    means = [statistics.fmean(grade.reward for grade in group) for group in held_out]
    verdicts = Counter(grade.facts.verdict for grade in grades)
    return CARD.format(
        schedule=schedule,
        num_training=num_training,
        num_held_out=len(held_out),
        split_seed=split_seed,
        reward=statistics.fmean(means),
        error=statistics.stdev(means) / math.sqrt(len(means)),
        solved=verdicts[Verdict.PASSED] / len(grades),
        num_completions=len(grades),
        max_tokens=MAX_COMPLETION_TOKENS,
        shares=", ".join(f"{name} {verdicts[name] / len(grades):.1%}" for name in Verdict if verdicts[name]),
    )
