"""The part of a completion's text that answers: without thoughts, special tokens and the turns of others. Pure and linear.

A mark counts where it stands as one, not where code or prose quotes it. What is thought by any reading is none of the answer:
a completion that was cut within its thought has no answer, however right the code in it is.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

from grader import lexical
from grader.blocks import begins_with_code
from grader.chat_tokens import CHANNEL, Kind, Mark, marks
from grader.lexical import Span
from grader.prose import first_starter, starts_line

_FENCE_LINE = re.compile(r"^[^\S\n]*(?:```|~~~)[^\n]*\n?", re.MULTILINE)
_LINE_ENDS = re.compile(r"[ \t]*(?:\n|<|\Z)")
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
# How far around a mark its line is looked at, and how many thoughts within one another are counted.
_REACH, _DEEPEST = 200, 30
# Formats whose tags are words, and tags that became words when special tokens were left out of the text.
_SPOKEN = (
    (re.compile(r"\s*Here(?:'s| is) my thought process:"), re.compile(r"Here(?:'s| is) my response:")),
    (re.compile(r"\s*Thinking\.\.\.(?=\n)"), re.compile(r"\.\.\.done thinking\.")),
)
_CHANNEL = re.compile(r"\s*(?:assistant)?(?:analysis|commentary)(?=[^\s_'.,:;=(])")
_CHANNEL_AND_PROSE = re.compile(r"\s*(?:assistant)?(?:analysis|commentary)(?:[A-Z][a-z']*[ ,]|[a-z]+ (?!=))")
_FINAL = re.compile(r"assistantfinal(?!ly|i[sz]e)|\A\s*final(?=(?:let|type|module|open)\s|```)")
_BEFORE_FINAL = re.compile(r"(?:[.!?:)\]}\"`]\s?|\n)\Z")


@dataclass(frozen=True, slots=True)
class Answer:
    """What is left of a completion, on the lines where it stood."""

    text: str
    instead: str = ""  # what the completion holds that is no answer
    quoted: str = (
        ""  # the completion, where each mark that was acted on may stand in a literal or a comment of its code
    )


def behind(opened_thought: str, text: str) -> str:
    """A completion behind the tag of a thought that its prompt left open; lines keep their numbers."""
    tag = " ".join(opened_thought.split())
    if tag and not any(mark.kind is Kind.OPENS for mark in marks(tag)):
        tag = "<think>"  # a tag that no rule knows: the text is a thought all the same
    return f"{tag} {text}" if tag else text


@lru_cache(maxsize=4)
def answer(text: str, special_tokens: tuple[str, ...] = ()) -> Answer:
    """Read a completion; each grading asks twice.

    Args:
        text: the completion as sampled, behind the tag of a thought that its prompt left open.
        special_tokens: the tokenizer's own, for those that no rule knows.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.startswith("\ufeff"):
        text = " " + text[1:]
    text = _with_tags_for_words(text)
    found = marks(text, special_tokens)
    return _Scan(text).over(found) if found else Answer(text)


def _with_tags_for_words(text: str) -> str:
    for opening, closing in _SPOKEN:
        opened = opening.match(text)
        if opened:
            return "<think>" + closing.sub("</think>", text[opened.end() :], count=1)
    opened = _CHANNEL.match(text)
    final = _FINAL.search(text) if opened or "final" in text else None
    if opened and (final or _CHANNEL_AND_PROSE.match(text)):
        thought = text[opened.end() : final.start() if final else len(text)]
        return f"<think>{thought}</think>{text[final.end() :]}" if final else f"<think>{thought}"
    if final and (final.start() == 0 or _BEFORE_FINAL.search(text, max(0, final.start() - 2), final.start())):
        return f"{text[: final.start()]}</think>{text[final.end() :]}"
    return text


class _Scan:
    """One pass over the marks of a text: what is kept, and which thoughts are open."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._literals = _Literals(text)
        self._kept: list[str] = []
        self._position = 0  # what stands before is decided
        self._open: list[Mark] = []  # thoughts, the outermost first
        self._past = 0  # the end of the mark before
        self._has_begun = False  # whether anything but marks has been seen
        self._is_others_turn = False
        self._acted_on: list[Mark] = []
        self._last_closing: dict[str, int] = {}  # by the tag in square brackets that opens

    def over(self, found: list[Mark]) -> Answer:
        """The answer among these marks."""
        text, end = self._text, len(self._text)
        for mark in found[_first_answering(found) :]:
            self._has_begun = self._has_begun or bool(text[self._past : mark.start].strip())
            if self._is_quoted(mark):
                self._has_begun = True
            elif self._in_thought(mark) if self._open else self._outside(mark):
                end = mark.start
                self._acted_on.append(mark)
                break
            self._past = mark.end
        instead = ""
        if self._open:
            opening = self._open[0]
            line = text.count("\n", 0, opening.start) + 1
            instead = (
                f"the thought that {text[opening.start : opening.end].strip()} opens on line {line} is not finished"
            )
        elif self._is_others_turn:
            instead = "the completion holds the turn of another role"
        elif self._acted_on:
            instead = "nothing but a thought or special tokens"
        rest = text[self._position : end]
        self._kept.append(_lines(rest) if self._open or self._is_others_turn else rest)
        return Answer("".join(self._kept), instead, self._quoted_text())

    def _is_quoted(self, mark: Mark) -> bool:
        before, after = self._text[max(0, mark.start - 1) : mark.start], self._text[mark.end : mark.end + 1]
        if before and _QUOTES.get(before) == after:
            return True
        # Prose is full of lone quotes: within a thought, and before a tag that ends one, the text is not read as code.
        if self._open:
            return False
        if mark.kind is Kind.CLOSES:
            return self._literals.hold_on_its_line(mark.start)
        return mark.kind is not Kind.FINAL and self._literals.hold(mark.start, self._position)

    def _in_thought(self, mark: Mark) -> bool:
        """Act on a mark within a thought; True where the text ends there."""
        if mark.kind is Kind.OPENS:
            last = self._open[-1]
            if mark.name == last.name and last.end == self._past and not self._text[self._past : mark.start].strip():
                self._open[-1] = mark  # the prompt opened it and the model did so again
            elif len(self._open) < _DEEPEST:
                self._open.append(mark)
        elif mark.kind is Kind.CLOSES:
            names = [thought.name for thought in self._open]
            closed = mark.name if mark.name in names else CHANNEL
            if closed in names:
                del self._open[len(names) - 1 - names[::-1].index(closed) :]
            if not self._open:
                self._drop_to(mark)
        elif mark.kind is Kind.FINAL:
            self._open.clear()
            self._start_over(mark)
        elif mark.kind is Kind.ENDS:
            return self._open[0].name != CHANNEL and _LINE_ENDS.match(self._text, mark.end) is not None
        return mark.kind is Kind.OTHER

    def _outside(self, mark: Mark) -> bool:
        """Act on a mark outside of thoughts; True where the text ends there."""
        if mark.kind is Kind.OPENS:
            if not mark.may_be_code or self._is_no_list(mark):
                self._kept.append(self._text[self._position : mark.start])
                self._position = mark.start
                self._open.append(mark)
                self._acted_on.append(mark)
        elif mark.kind in (Kind.CLOSES, Kind.FINAL) or (self._is_others_turn and mark.kind is Kind.SPEAKS):
            self._start_over(mark)
        elif mark.kind is Kind.NOISE:
            if self._is_at_an_edge(mark):
                self._kept.append(self._text[self._position : mark.start])
                self._position = mark.start
                self._drop_to(mark)
        elif self._has_begun and not self._is_others_turn:
            return True
        else:
            self._drop_to(mark)
            self._is_others_turn = self._is_others_turn or mark.kind is Kind.OTHER
        return False

    def _drop_to(self, mark: Mark) -> None:
        # A space: no two words become one that the completion does not spell.
        self._kept.append(_lines(self._text[self._position : mark.end]) + " ")
        self._position = mark.end
        self._acted_on.append(mark)

    def _start_over(self, mark: Mark) -> None:
        """Drop all that stands before: it was thought, or said by another."""
        self._kept, self._position = [], 0
        self._drop_to(mark)
        self._has_begun = self._is_others_turn = False

    def _is_no_list(self, mark: Mark) -> bool:
        """Whether a tag in square brackets is none of the code."""
        written = self._text[mark.start : mark.end]
        if not self._has_begun or (written.isupper() and starts_line(self._text, mark.start)):
            return True
        if written not in self._last_closing:
            self._last_closing[written] = self._text.rfind(f"[/{written[1:]}")
        return self._last_closing[written] > mark.start

    def _is_at_an_edge(self, mark: Mark) -> bool:
        """Whether a token ends or begins a line, or touches another one: else it may be two operators around a name."""
        before, after = self._text[self._past : mark.start], self._text[mark.end : mark.end + _REACH]
        return (self._past > 0 and not before) or starts_line(self._text, mark.start) or bool(_LINE_ENDS.match(after))

    def _quoted_text(self) -> str:
        if not self._acted_on or not begins_with_code(self._text):
            return ""
        literals = [span for span in lexical.spans(self._text) if _is_literal(span)]
        starts = [span.start for span in literals]
        for mark in self._acted_on:
            index = bisect_right(starts, mark.start) - 1
            if index < 0 or literals[index].end < mark.end:
                return ""
        return self._text


class _Literals:
    """The literals and comments of the code in a text that may hold prose as well."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._fences: list[tuple[int, int]] | None = None
        self._starters: dict[int, int | None] = {}  # by where the stretch begins
        self._spans: dict[int, list[Span]] = {}  # by where its code begins
        self._budget = 8 * len(text) + 10_000  # characters; a text of many marks is lexed so often and no more

    def hold(self, position: int, floor: int) -> bool:
        """Whether a position lies in a literal or a comment, if the text is code; ``floor``: what is before is none."""
        if self._fences is None:
            self._fences = [found.span() for found in _FENCE_LINE.finditer(self._text)]
        before = bisect_right(self._fences, (position, 0)) - 1
        start = max(floor, self._fences[before][1] if before >= 0 else 0)
        end = self._fences[before + 1][0] if before + 1 < len(self._fences) else len(self._text)
        if start not in self._starters:
            self._budget -= end - start
            if self._budget < 0:
                return False
            self._starters[start] = first_starter(self._text, start, end)
        first = self._starters[start]
        start = start if first is None or first > position else first
        if start not in self._spans:
            self._budget -= end - start
            if self._budget < 0:
                return False
            self._spans[start] = lexical.spans(self._text[start:end])
        return _holds(self._spans[start], position - start)

    def hold_on_its_line(self, position: int) -> bool:
        """Whether a position lies in a literal or a comment that begins and ends on its line."""
        start = max(self._text.rfind("\n", 0, position) + 1, position - _REACH)
        end = self._text.find("\n", position, position + _REACH)
        line = self._text[start : end if end >= 0 else position + _REACH]
        return _holds(lexical.spans(line), position - start)


def _first_answering(found: list[Mark]) -> int:
    """Which of the marks decides first: a channel for the answer, where there is one before the turn of another role."""
    for index, mark in enumerate(found):
        if mark.kind is Kind.FINAL:
            return index
        if mark.kind is Kind.OTHER:
            return 0
    return 0


def _is_literal(span: Span) -> bool:
    return span.closed and span.kind is not lexical.Kind.CODE


def _holds(spans: list[Span], position: int) -> bool:
    index = bisect_right(spans, position, key=lambda span: span.start) - 1
    return 0 <= index < len(spans) and _is_literal(spans[index]) and position < spans[index].end


def _lines(text: str) -> str:
    """Nothing, on as many lines."""
    return "\n" * text.count("\n")
