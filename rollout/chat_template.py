"""A tokenizer's chat template: the accepted form of a conversation, and the opening of an answer."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from cluster.errors import ModelError
from cluster.thought_tags import THOUGHT_CLOSING, THOUGHT_OPENING
from rollout.template_errors import TemplateFailure, TemplateTooSlow, checked, template_limits
from rollout.tokenizer import Tokenizer, contains

Message = dict[str, Any]

SENTINEL = "let it_be_found = 7"
NUM_PROBES = 8
"""Renderings of one conversation that must be equal; a random choice between two texts is missed once in 128 runs."""

_USUAL_VARIABLES = {"messages", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token", "tools"}

ANOTHER_DAY = timedelta(days=400)  # another day, month and year


@dataclass(frozen=True, slots=True)
class Form:
    """Form of the conversation for a template."""

    with_system: bool  # the instruction is a system message; else it precedes the question
    in_parts: bool  # content is a list of parts, as for models that also take images


FORMS = (Form(True, False), Form(True, True), Form(False, False), Form(False, True))
"""The forms, in the order in which they are tried."""


class ChatTemplate:
    """Renders an instruction and a question as a conversation for a chat model to continue."""

    def __init__(
        self, tokenizer: Tokenizer, *, instruction: str, probe: str, today: date, variables: Mapping[str, Any]
    ) -> None:
        """Find the form that the template accepts. Raises ModelError, with one line, for a template that cannot be used.

        Args:
            instruction: the system message; empty: none.
            probe: an example of a question.
            today: the date that the template may write.
            variables: prompt.chat_template_kwargs.
        """
        self._tokenizer = tokenizer
        self._template = _default_template(tokenizer.chat_template)
        self._variables = variables
        self._instruction = instruction
        self._today = today
        self._header = ""  # opening of an answer, if the template omits it
        self._ends: tuple[str, ...] = ()
        self.turn_end = ""  # what the template writes after an answer, up to the first space
        self._notes: list[str] = []
        self._form = self._find_form(probe)
        self._check_variables(probe)
        try:
            self._check_repeatable(probe)
            self._complete_opening(probe)
            self.opened_thought = self._find_opened_thought(probe)
        except TemplateFailure as failure:
            raise ModelError(_unusable(f"it fails: {failure}")) from None
        if self.opened_thought:
            self._notes.append(
                f"the chat template opens a thought: the answer comes after {closing_tag(self.opened_thought)}, and "
                "rollout.max_completion_tokens is the limit of both"
            )

    def _check_variables(self, probe: str) -> None:
        """Raise ModelError for variables that the template does not read, which would have no effect."""
        # transformers passes every name on and ignores those that the template does not use.
        from transformers.utils.chat_template_utils import _get_template_variables

        if not self._variables:
            return
        read = _get_template_variables(self._template)
        if unread := [name for name in self._variables if name not in read]:
            own = ", ".join(sorted(name for name in read if name not in _USUAL_VARIABLES)) or "none but the usual ones"
            raise ModelError(
                f"its chat template does not read {', '.join(unread)}, and prompt.chat_template_kwargs sets it: remove it, or "
                f"correct its name. Variables that the template reads, or sets itself: {own}"
            )
        with suppress(TemplateFailure):  # it may fail without a variable
            if self._apply(self._form, probe, variables={}) == self._apply(self._form, probe):
                self._notes.append(
                    "prompt.chat_template_kwargs change nothing: the chat template writes the same without them"
                )

    @property
    def notes(self) -> tuple[str, ...]:
        """Log lines about the adjustments to the template's output."""
        return tuple(self._notes)

    def render(self, question: str) -> str:
        """Return the prompt. Raises TemplateFailure if the template fails for this question."""
        text = self._apply(self._form, question) + self._header
        while end := next((end for end in self._ends if text.rstrip().endswith(end)), ""):
            text = text.rstrip().removesuffix(end)
        return text

    def _apply(
        self,
        form: Form,
        question: str,
        *,
        reply: str | None = None,
        add_generation_prompt: bool = True,
        today: date | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        instruction = self._instruction
        joined = f"{instruction}\n\n{question}" if instruction else question
        texts = {"system": instruction, "user": question} if form.with_system else {"user": joined}
        if reply is not None:
            texts["assistant"] = reply
        messages: list[Message] = [
            {"role": role, "content": [{"type": "text", "text": text}] if form.in_parts else text}
            for role, text in texts.items()
        ]
        names = dict(self._variables if variables is None else variables)
        if "strftime_now" in self._template:  # transformers' own would write the current day
            midnight = datetime.combine(today or self._today, time())
            names["strftime_now"] = midnight.strftime
        with template_limits():
            text = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **names,
            )
            return checked(text)

    def _find_form(self, probe: str) -> Form:
        refusal = "the prompt lacks it"
        failures: dict[Form, str] = {}
        for form in FORMS if self._instruction else FORMS[2:]:
            try:
                text = self._apply(form, probe)
            except TemplateFailure as failure:
                failures[form] = str(failure)
                if isinstance(failure, TemplateTooSlow):
                    raise ModelError(_unusable(f"it fails: {failure}")) from None
                continue
            # Some templates write the list of parts itself into the prompt.
            if contains(text, probe) and contains(text, self._instruction) and "{'type'" not in text:
                if self._instruction and not form.with_system:
                    refusal = failures.get(FORMS[0], refusal)
                    self._notes.append(
                        f"the chat template accepts no system message ({refusal}): the instruction precedes each question"
                    )
                return form
        plainest = Form(with_system=False, in_parts=False)
        if plainest in failures:
            with_variables = f" with prompt.chat_template_kwargs={self._variables}" if self._variables else ""
            raise ModelError(_unusable(f"it fails{with_variables}: {failures[plainest]}"))
        raise ModelError(_unusable("its output does not contain the problem's text"))

    def _check_repeatable(self, probe: str) -> None:
        first = self._apply(self._form, probe)
        if any(self._apply(self._form, probe) != first for _ in range(NUM_PROBES - 1)):
            raise ModelError(_unusable("its output differs between calls with the same conversation"))
        if self._apply(self._form, probe, today=self._today + ANOTHER_DAY) != first:
            self._notes.append(f"the chat template writes the date, which stays prompt.date={self._today}")

    def _complete_opening(self, probe: str) -> None:
        """Take the opening of an answer from a complete conversation if the template ignores add_generation_prompt."""
        text = self._apply(self._form, probe)
        closed = self._without_opening(probe)
        before, after = self._around_reply(probe, text if closed is None else closed)
        if text == closed and before.strip():
            self._header = before.rstrip(" ")
            self._notes.append(
                f"the chat template ignores add_generation_prompt: {self._header!r}, the opening of an answer, is added"
            )
        self.turn_end = next(iter(after.split()), "")
        tokens = (self.turn_end, self._tokenizer.eos_token, self._tokenizer.sep_token)
        self._ends = tuple(dict.fromkeys(token for token in tokens if token))
        complete = (text + self._header).rstrip()
        for end in self._ends:
            if complete.endswith(end):
                self._notes.append(
                    f"the chat template ends each prompt with {end}: it is removed, because an answer follows"
                )

    def _without_opening(self, probe: str) -> str | None:
        try:
            return self._apply(self._form, probe, add_generation_prompt=False)
        except TemplateFailure:  # some templates require an answer then
            return None

    def _around_reply(self, probe: str, closed: str) -> tuple[str, str]:
        """Return the template's texts between question and reply and after the reply; empty if they cannot be found."""
        try:
            whole = self._apply(self._form, probe, reply=SENTINEL, add_generation_prompt=False)
        except TemplateFailure:
            return "", ""
        before, found, after = whole.rpartition(SENTINEL)
        if not found:
            return "", ""
        return before.removeprefix(closed) if before.startswith(closed) else "", after

    def _find_opened_thought(self, probe: str) -> str:
        text, closed = self.render(probe), self._without_opening(probe)
        opening = text[len(closed) :] if closed and text.startswith(closed) else ""
        if not opening:
            # Only a tag at the very end opens a thought: the question may contain others.
            return opened_at_end(text)
        opened, ended = _last(THOUGHT_OPENING.finditer(opening)), _last(THOUGHT_CLOSING.finditer(opening))
        return opened.group() if opened and (ended is None or ended.start() < opened.start()) else ""


_MAX_OPENING = 200


def opened_at_end(text: str) -> str:
    """Return the tag of a thought that a prompt opens at its end; empty if it opens none there."""
    end = text[-_MAX_OPENING:]
    found = _last(THOUGHT_OPENING.finditer(end))
    return str(found.group()) if found and not end[found.end() :].strip() else ""


_PAIRS = {
    "<|channel|>": "<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|channel>": "<channel|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "<unused94>": "<unused95>",
    "<|im_start|>think": "<|im_end|>\n<|im_start|>answer\n",
    "<|open|>think": "<|close|>think<|sep|><|open|>response<|sep|>",
}
"""Closing tags with another name than the opening tag, by the start of the opening tag."""


def closing_tag(opening: str) -> str:
    """Return the closing tag of a thought for its opening tag: </think> for <think>."""
    pair = next((closing for start, closing in _PAIRS.items() if opening.startswith(start)), None)
    if pair:
        return pair
    ended = re.sub("begin|start", "end", opening, flags=re.IGNORECASE)
    if ended != opening:
        return ended
    marks = re.match(r"[<\[\u25c1][|\uff5c]?", opening)
    assert marks is not None, opening
    name = re.split(r"[\s\]>|\uff5c\u25b7]", opening[marks.end() :].lstrip())[0]
    return f"{marks.group()}/{name}{marks.group()[1:]}{opening[-1]}"


def _last(matches: Iterator[Any]) -> Any:
    found = None
    for found in matches:  # noqa: B007 - the last one is wanted
        pass
    return found


def _default_template(templates: str | dict[str, str] | None) -> str:
    if isinstance(templates, dict):
        if "default" not in templates:
            raise ModelError(
                f"the tokenizer has several chat templates ({', '.join(sorted(templates))}) and none called default. Write the "
                "one to use to chat_template.jinja in a local copy of the model, and set model.path to that folder"
            )
        return templates["default"]
    return templates or ""


def _unusable(cause: str) -> str:
    return (
        f"its chat template cannot be used: {cause}. Use a local copy of the model with a corrected chat_template.jinja, or one "
        "without a chat template, which then gets texts to continue"
    )
