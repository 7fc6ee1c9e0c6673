"""SFT examples: pairs of prompt and completion token ids from problems with reference solutions."""

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.errors import ModelError
from cluster.types import Problem, Prompt
from learner.sft.examples import Pair
from rollout.chat_template import closing_tag
from rollout.prompt_template import END_MARKER


def answer(problem: Problem, prompt: Prompt) -> str:
    """The completion that a model should write, up to the END marker; raises ModelError for a problem without solution.

    After a prompt that ends in the signature it is the rest of the definition, else the whole definition. A thought that the
    prompt has opened is closed first.
    """
    if problem.solution is None:
        raise ModelError(f"problem {problem.id!r} has no reference solution to learn from")
    text = problem.solution.strip("\n")
    if prompt.text.rstrip().endswith(problem.signature):
        text = text.removeprefix(problem.signature).lstrip("\n")
        if not prompt.text.endswith("\n"):
            text = f"\n{text}"
    thought = f"\n{closing_tag(prompt.opened_thought)}\n\n" if prompt.opened_thought else ""
    return f"{thought}{text}\n{END_MARKER}"


def pairs_of(problems: Iterable[Problem], prompts: Mapping[str, Prompt], tokenizer: Any) -> list[Pair]:
    """Return, for each problem, the prompt ids that samplers use, and completion ids with the end-of-sequence token.

    Problems whose prompt is too long are excluded.
    """
    found: list[Pair] = []
    for problem in problems:
        if (prompt := prompts.get(problem.id)) is None:
            continue
        completion = [*tokenizer.encode(answer(problem, prompt), add_special_tokens=False), tokenizer.eos_token_id]
        found.append((prompt.token_ids, completion))
    return found
