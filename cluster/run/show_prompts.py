"""``caravan prompts``: prompts as the model reads them, and what ends a completion."""

import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cluster.config.config import Config
from cluster.config.model_path import model_path
from cluster.console import View, count, output
from cluster.errors import DatasetError
from cluster.run.loading import RenderedProblems, load_and_render
from cluster.run.prompts import load_tokenizer, prompt_renderer
from cluster.types import Prompt
from rollout.chat_template import closing_tag
from rollout.stopping import end_token_ids
from rollout.tokenizer import PromptEncoder

NUM_LAST_CHARS = 40  # of a prompt, which are shown with their line ends


def show_prompts(config: Config, ids: Sequence[str], view: View) -> int:
    """Print the prompts of the problems with these ids, or of the first one; returns the exit code.

    Raises DatasetError for an unknown id, PromptTooLong and PromptIncomplete for a problem without a prompt, ModelError.
    """
    rendered = load_and_render(config, view, accept_any_hash=True)
    tokenizer = load_tokenizer(config)
    for prompt in _chosen(config, rendered, ids):
        _print_prompt(config, prompt, tokenizer)
    _print_ends(config, tokenizer)
    print(f"template hash   {rendered.template_hash}")
    if not ids:
        lengths = sorted(len(prompt.token_ids) for prompt in rendered.prompts.values())
        print(
            f"all prompts     {count(len(lengths), 'problem')} of {len(rendered.loaded)}: {lengths[0]} to {lengths[-1]} tokens, "
            f"median {statistics.median_low(lengths)}"
        )
    return 0


def _chosen(config: Config, rendered: RenderedProblems, ids: Sequence[str]) -> list[Prompt]:
    loaded = {problem.id: problem for problem in rendered.loaded}
    if unknown := [problem_id for problem_id in ids if problem_id not in loaded]:
        raise DatasetError(
            f"{config.data.dataset} has no problem {unknown[0]!r}; it has, for example, {next(iter(loaded))!r}"
        )
    for problem_id in ids:
        if problem_id not in rendered.prompts:
            used = config.model_copy(update={"prompt": rendered.prompt_settings})
            prompt_renderer(used).render(loaded[problem_id])  # raises the reason
    return [rendered.prompts[problem_id] for problem_id in ids or [rendered.problems[0].id]]


def _print_prompt(config: Config, prompt: Prompt, tokenizer: Any) -> None:
    """Print the text of the tokens, special tokens included; a terminal shows these inverted."""
    text = tokenizer.decode(list(prompt.token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    found = Counter(number for number in prompt.token_ids if number in added)
    shown = text
    if found and output().is_terminal:
        pattern = "|".join(re.escape(added[number]) for number in found)
        shown = re.sub(pattern, lambda match: f"\x1b[7m{match.group()}\x1b[27m", text)
    print(f"───── {prompt.problem_id} ─────\n{shown}\n───── end of the prompt ─────")
    print(
        f"tokens          {len(prompt.token_ids)}, at most {config.rollout.max_prompt_tokens} (rollout.max_prompt_tokens)"
    )
    specials = ", ".join(f"{added[number]} ({number}) x {times}" for number, times in found.items())
    print(f"special tokens  {specials or 'none'}")
    print(f"begin of text   {_beginning(prompt, tokenizer)}")
    print(f"ends with       {text[-NUM_LAST_CHARS:]!r}")
    if tag := prompt.opened_thought:
        print(f"thought         the prompt opens {tag}: the answer comes after {closing_tag(tag)}")


def _beginning(prompt: Prompt, tokenizer: Any) -> str:
    prefix = PromptEncoder(tokenizer, is_chat=True).prefix
    if not prefix:
        return "the tokenizer adds no token to texts"
    times, rest = 0, prompt.token_ids
    while rest[: len(prefix)] == prefix:
        times, rest = times + 1, rest[len(prefix) :]
    token = tokenizer.decode(list(prefix), skip_special_tokens=False)
    return f"{token} ({', '.join(map(str, prefix))}) x {times}, which the tokenizer adds to texts"


def _print_ends(config: Config, tokenizer: Any) -> None:
    rollout = config.rollout
    strings = ", ".join(map(repr, rollout.stop)) or "none"
    ids = end_token_ids(tokenizer, model_path(config))
    tokens = (
        ", ".join(f"{tokenizer.decode([number], skip_special_tokens=False)} ({number})" for number in ids) or "none"
    )
    print("\na completion ends at the first of these:")
    print(f"stop strings    {strings}")
    print(f"EOS tokens      {tokens}")
    print(f"length          {rollout.max_completion_tokens} tokens (rollout.max_completion_tokens)\n")
