"""Rendering of problems as prompts, text and token ids."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from cluster.errors import ModelError, PromptHasSolution, PromptIncomplete, PromptTooLong
from cluster.types import Problem, Prompt
from rollout.chat_template import ChatTemplate, closing_tag, opened_at_end
from rollout.examples import BUILT_IN_EXAMPLES
from rollout.prompt_settings import PromptSettings
from rollout.prompt_template import CONTINUATION, END_MARKER, QUESTION, PromptTemplate
from rollout.template_errors import TemplateFailure, TemplateTooSlow
from rollout.tokenizer import (
    PromptEncoder,
    Tokenizer,
    contains,
    keeps,
    marks_thoughts_by_special_tokens,
    special_tokens,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedPrompts:
    """Prompts of problems, and one line per problem without a prompt."""

    prompts: Mapping[str, Prompt]  # by problem id
    too_long: Sequence[str]
    incomplete: Sequence[str]  # problems of which the chat template or the tokenizer loses text
    with_solution: Sequence[str]  # problems that are few-shot examples
    with_special_tokens: Sequence[str]  # problems whose own text has special tokens; they have a prompt
    notes: Sequence[str]  # log lines about the tokenizer and its chat template
    special_tokens: tuple[str, ...]  # tokens that completions may contain as characters
    template_hash: str


class PromptRenderer:
    """Renders problems for one tokenizer: with its chat template if it has one, else as a text to continue."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        settings: PromptSettings,
        *,
        max_prompt_tokens: int,
        today: date,
        end_token_ids: Collection[int] = (),
    ) -> None:
        """Test the tokenizer on an example.

        ``today`` is the date that a chat template may write; ``end_token_ids`` end a completion (empty: not checked).
        Raises ModelError, with one line, if the tokenizer or its chat template cannot be used.
        """
        self._settings = settings
        self._max_prompt_tokens = max_prompt_tokens
        self._shown = {_normalized(example.prompt) for example in settings.examples}
        is_chat = _uses_chat_template(tokenizer, settings)
        source = settings.template or (QUESTION if is_chat else CONTINUATION)
        self._template = PromptTemplate(source)
        probe = BUILT_IN_EXAMPLES[0].as_problem()
        self._chat: ChatTemplate | None = None
        if is_chat:
            self._chat = ChatTemplate(
                tokenizer,
                instruction="" if "system" in self._template.fields else settings.instruction,
                probe=self._question(probe),
                today=today,
                variables=settings.chat_template_kwargs,
            )
        self._encoder = PromptEncoder(tokenizer, is_chat=is_chat)
        self._keeps_special_tokens = marks_thoughts_by_special_tokens(tokenizer)
        self._special_tokens = special_tokens(tokenizer)
        text = self._text(probe)
        token_ids = self._encoder.encode(text)
        self.template_hash = _digest(source, text, token_ids)
        """Digest of the prompt template as rendered for an example."""
        self.notes = (
            *self._template_notes(text, probe),
            *(self._chat.notes if self._chat else ()),
            *self._encoder.notes(text),
            *self._end_notes(tokenizer, end_token_ids),
        )
        """Log lines about the adjustments for this tokenizer."""
        try:
            self._check_kept(probe, token_ids)
        except PromptIncomplete as error:
            raise ModelError(
                f"its tokenizer cannot be used: {error}. Use the tokenizer that the model was trained with; if "
                "tokenizer_config.json names a tokenizer_class that reads tokenizer.json in its own way (LlamaTokenizer), write "
                "PreTrainedTokenizerFast there"
            ) from None

    def render_all(self, problems: Iterable[Problem]) -> RenderedPrompts:
        """Render problems, and list those that have no usable prompt."""
        prompts: dict[str, Prompt] = {}
        too_long: list[str] = []
        incomplete: list[str] = []
        with_solution: list[str] = []
        special = re.compile("|".join(map(re.escape, self._special_tokens)) or "(?!)")
        with_special_tokens: list[str] = []
        for problem in problems:
            if found := special.search(problem.prompt):
                with_special_tokens.append(f"{found.group()} in problem {problem.id!r}")
            try:
                prompts[problem.id] = self.render(problem)
            except PromptTooLong as error:
                too_long.append(str(error))
            except PromptIncomplete as error:
                incomplete.append(str(error))
            except PromptHasSolution as error:
                with_solution.append(str(error))
        return RenderedPrompts(
            prompts=prompts,
            too_long=too_long,
            incomplete=incomplete,
            with_solution=with_solution,
            with_special_tokens=with_special_tokens,
            notes=self.notes,
            special_tokens=self._special_tokens,
            template_hash=self.template_hash,
        )

    def render(self, problem: Problem) -> Prompt:
        """Render a problem; prompts are never truncated.

        Raises PromptTooLong for too many tokens, PromptIncomplete for a prompt without some of the problem's text,
        PromptHasSolution for a problem that is a few-shot example.
        """
        if _normalized(problem.prompt) in self._shown:
            raise PromptHasSolution(f"problem {problem.id!r} is one of the few-shot examples, which hold its solution")
        try:
            text = self._text(problem)
        except TemplateTooSlow as failure:
            raise ModelError(f"the template fails at problem {problem.id!r}: {failure}") from None
        except TemplateFailure as failure:
            raise PromptIncomplete(f"the template fails at problem {problem.id!r}: {failure}") from None
        if not all(contains(text, part) for part in self._required_parts(problem)):
            raise PromptIncomplete(f"the template omits some of the text of problem {problem.id!r}")
        if len(text) > self._max_prompt_tokens * self._encoder.max_chars_per_token:
            raise PromptTooLong(
                f"the prompt of problem {problem.id!r} has {len(text):,} characters, "
                f"more than rollout.max_prompt_tokens={self._max_prompt_tokens} can hold"
            )
        token_ids = self._encoder.encode(text)
        if len(token_ids) > self._max_prompt_tokens:
            raise PromptTooLong(
                f"the prompt of problem {problem.id!r} has {len(token_ids)} tokens, "
                f"more than rollout.max_prompt_tokens={self._max_prompt_tokens}"
            )
        self._check_kept(problem, token_ids)
        return Prompt(
            problem_id=problem.id,
            text=text,
            token_ids=tuple(token_ids),
            opened_thought=self._chat.opened_thought if self._chat else opened_at_end(text),
            keeps_special_tokens=self._keeps_special_tokens,
            template_hash=self.template_hash,
        )

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text that token ids stand for, special tokens included."""
        return self._encoder.decode(list(token_ids))

    def _text(self, problem: Problem) -> str:
        question = self._question(problem)
        return self._chat.render(question) if self._chat else question

    def _question(self, problem: Problem) -> str:
        return self._template.render(problem, system=self._settings.instruction, examples=self._settings.examples)

    def _template_notes(self, text: str, probe: Problem) -> Iterable[str]:
        if not contains(text, probe.signature):
            yield "prompt.template lacks {{ signature }}: the model has to guess the name and type that the tests use"
        if self._chat is None and self._settings.system and "system" not in self._template.fields:
            yield "prompt.system has no effect: without a chat template, the prompt is prompt.template; write {{ system }} there"

        if self._chat is None and (tag := opened_at_end(text)):
            yield (
                f"prompt.template opens a thought: the answer comes after {closing_tag(tag)}, and rollout.max_completion_tokens "
                "is the limit of both"
            )
        examples = "\n".join(f"{example.prompt}\n{example.solution}" for example in self._settings.examples)
        if special := [token for token in self._special_tokens if token in examples]:
            yield f"the tokenizer reads {', '.join(special)} in prompt.few_shot as special tokens: remove them from the examples"
        if "END" not in text:
            yield (
                f"no prompt asks for {END_MARKER}, which the structural term of the reward counts: write {{{{ end_marker }}}} in "
                "prompt.template or the text in prompt.system"
            )

    def _end_notes(self, tokenizer: Tokenizer, end_token_ids: Collection[int]) -> Iterable[str]:
        turn_end = self._chat.turn_end if self._chat else ""
        tokens = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
        if end_token_ids and turn_end in tokens and tokens[turn_end] not in end_token_ids:
            ends = ", ".join(self.decode([number]) for number in end_token_ids)
            yield (
                f"the chat template ends an answer with {turn_end}, which is no end token of the model (only {ends}): a "
                "completion without a stop string continues after its answer. Add the token to eos_token_id in the "
                "generation_config.json of a local copy of the model"
            )

    def _required_parts(self, problem: Problem) -> tuple[str, ...]:
        """Return the parts of a problem that its prompt must contain."""
        signature = (problem.signature,) if {"prompt", "signature"} & self._template.fields else ()
        return (problem.statement, *signature) if problem.statement else (problem.signature,)

    def _check_kept(self, problem: Problem, token_ids: Sequence[int]) -> None:
        """Raise PromptIncomplete if the tokens decode to another text, for example in lower case."""
        decoded = self.decode(token_ids)
        for part in self._required_parts(problem):
            if not keeps(decoded, part):
                lost = next((word for word in part.split() if not keeps(decoded, word)), part[:40])
                raise PromptIncomplete(f"the tokens do not decode to {lost!r} of problem {problem.id!r}")


def _uses_chat_template(tokenizer: Tokenizer, settings: PromptSettings) -> bool:
    """Return True if prompts are rendered with the chat template. Raises ModelError if the settings need one that is missing."""
    has_one = bool(tokenizer.chat_template)
    if settings.chat == "on" and not has_one:
        raise ModelError(
            "its tokenizer has no chat template, and prompt.chat=on requires one: take an instruct model, write the template to "
            "chat_template.jinja in a local copy of the model, or set prompt.chat=auto"
        )
    is_chat = has_one and settings.chat != "off"
    if settings.chat_template_kwargs and not is_chat:
        why = "prompt.chat=off turns it off" if has_one else "the tokenizer has none"
        raise ModelError(f"prompt.chat_template_kwargs are variables of the chat template, and {why}: remove them")
    return is_chat


def _normalized(text: str) -> str:
    return " ".join(text.split())


def _digest(*parts: object) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()
