"""SFT examples: pairs of prompt and completion token ids from problems with reference solutions."""

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.errors import ModelError
from cluster.types import Problem, Prompt
from learner.sft.examples import Pair
from rollout.chat_template import closing_tag
from rollout.prompt import END_MARKER


def answer(problem: Problem, *, is_chat: bool, opened_thought: str = "") -> str:
    """The completion that a model should write, up to the END marker; raises ModelError for a problem without solution.

    A chat model writes the whole definition; a base model continues after the signature. A thought that the prompt has opened
    is closed first.
    """
    if problem.solution is None:
        raise ModelError(f"problem {problem.id!r} has no reference solution to learn from")
    text = problem.solution.strip("\n")
    thought = f"\n{closing_tag(opened_thought)}\n\n" if opened_thought else ""
    body = text if is_chat else text.removeprefix(problem.signature).lstrip("\n")
    return f"{thought}{body}\n{END_MARKER}"


def pairs_of(problems: Iterable[Problem], prompts: Mapping[str, Prompt], tokenizer: Any) -> list[Pair]:
    """Return, for each problem, the prompt ids that samplers use, and completion ids with the end-of-sequence token.

    Problems whose prompt is too long are excluded.
    """
    found: list[Pair] = []
    for problem in problems:
        if (prompt := prompts.get(problem.id)) is None:
            continue
        text = answer(problem, is_chat=bool(tokenizer.chat_template), opened_thought=prompt.opened_thought)
        completion = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        found.append((prompt.token_ids, completion))
    return found
