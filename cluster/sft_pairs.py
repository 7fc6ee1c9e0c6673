"""Problems with reference solutions as pairs of token ids: what a model reads, and what it should write."""

from collections.abc import Iterable
from typing import Any

from cluster.types import ModelError, Problem, PromptTooLong
from learner.lessons import Pair
from rollout.prompt import END_MARKER, render


def answer(problem: Problem, *, is_chat: bool) -> str:
    """What a model should write after the prompt, up to the END marker; raises ModelError where nobody knows.

    A chat model gives the whole definition; one that continues a text goes on after the signature.
    """
    if problem.solution is None:
        raise ModelError(f"problem {problem.id!r} has no reference solution to learn from")
    text = problem.solution.strip("\n")
    return f"{text if is_chat else text.removeprefix(problem.signature).lstrip(chr(10))}\n{END_MARKER}"


def pairs_of(problems: Iterable[Problem], tokenizer: Any, *, num_few_shot: int, max_prompt_tokens: int) -> list[Pair]:
    """Prompt ids, as the samplers give them to the model, and completion ids with the end-of-sequence token, of each problem.

    Problems whose prompt is too long are left out.
    """
    found: list[Pair] = []
    for problem in problems:
        try:
            prompt = render(problem, tokenizer, num_few_shot=num_few_shot, max_prompt_tokens=max_prompt_tokens)
        except PromptTooLong:
            continue
        text = answer(problem, is_chat=bool(tokenizer.chat_template))
        completion = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        found.append((prompt.token_ids, completion))
    return found
