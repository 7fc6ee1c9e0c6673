"""The part of a completion's text that is its answer: without thoughts, special tokens and other roles' turns. Pure, linear.

A token counts only if neither code nor prose quotes it. Text that may belong to a thought is never part of the answer: a
completion that was truncated inside its thought has no answer, even if the thought holds correct code.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass

from grader import lexical
from grader.chat_tokens import CHANNEL, KNOWN_TOKENS, ChatToken, TokenKind, TokenPatterns, find_tokens
from grader.lexical import Span
from grader.lines import begins_with_code, first_code_line, starts_line
from grader.thoughts import EditedText, Thought

_CARRIAGE_RETURN = re.compile(r"\r\n?")
_FENCE_LINE = re.compile(r"^[^\S\n]*(?:```|~~~)[^\n]*\n?", re.MULTILINE)
_LINE_ENDS = re.compile(r"[ \t]*(?:\n|<|\Z)")
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_MAX_LINE_CHARS = 200  # examined on each side of a token, on its line
_MAX_NESTED_THOUGHTS = 30
_MAY_PRECEDE_ANSWER = (TokenKind.STARTS_TEXT, TokenKind.ASSISTANT_TURN)  # also between a thought and the answer
# Formats whose tags are words, and tags that became words because special tokens were dropped from the text.
_WORD_TAGS = (
    (re.compile(r"\s*Here(?:'s| is) my thought process:"), re.compile(r"Here(?:'s| is) my response:")),
    (re.compile(r"\s*Thinking\.\.\.(?=\n)"), re.compile(r"\.\.\.done thinking\.")),
    (
        re.compile(
            r"\s*(?:```|~~~)[ \t]*(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis)[ \t]*(?=\n|\Z)", re.IGNORECASE
        ),
        re.compile(r"^[ \t]*(?:```|~~~)[ \t]*$", re.MULTILINE),
    ),
)
_CHANNEL = re.compile(r"\s*(?:assistant)?(?:analysis|commentary)(?=[^\s_'.,:;=(])")
_CHANNEL_AND_PROSE = re.compile(r"\s*(?:assistant)?(?:analysis|commentary)(?:[A-Z][a-z']*[ ,]|[a-z]+ (?!=))")
_FINAL = re.compile(r"assistantfinal(?!ly|i[sz]e)|\A\s*final(?=(?:let|type|module|open)\s|```)")
_BEFORE_FINAL = re.compile(r"(?:[.!?:)\]}\"`]\s?|\n)\Z")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer in a completion, on the same lines as in the completion."""

    text: str
    no_answer_reason: str = ""  # message if no code remains; names what was dropped (thoughts, tokens, other turns)
    verbatim: str = ""  # the whole completion, if all dropped tokens may be literals or comments of its code
    thoughts: tuple[Thought, ...] = ()  # what was dropped before the answer and within it, in order


def with_opened_thought(tag: str, text: str) -> str:
    """Prepend the tag of a thought that the prompt left open, without changing line numbers."""
    tag = " ".join(tag.split())
    if tag and not any(token.kind is TokenKind.OPENS_THOUGHT for token in find_tokens(f"{tag} x")):
        tag = "<think>"  # the tag is unknown, or no tag if text follows it on its line; the text is a thought anyway
    return f"{tag} {text}" if tag else text


def find_answer(text: str, patterns: TokenPatterns = KNOWN_TOKENS) -> Answer:
    """Find the answer in a completion.

    Args:
        text: the completion as sampled, after ``with_opened_thought``.
        patterns: token patterns of the tokenizer that sampled it.
    """
    edited = EditedText(text)
    if "\r" in text:
        edited = edited.replaced((found.start(), found.end(), "\n") for found in _CARRIAGE_RETURN.finditer(text))
    if text.startswith("\ufeff"):
        edited = edited.replaced([(0, 1, " ")])
    edited = edited.replaced(_tags_for_words(edited.text))
    tokens = find_tokens(edited.text, patterns)
    return _Scan(edited).answer(tokens) if tokens else Answer(edited.text)


def _tags_for_words(text: str) -> list[tuple[int, int, str]]:
    """Return the replacements (start, end, tag) that turn a format whose tags are words into one with tags."""
    for opening, closing in _WORD_TAGS:
        opened = opening.match(text)
        if opened:
            closed = closing.search(text, opened.end())
            return [(0, opened.end(), "<think>"), *([(*closed.span(), "</think>")] if closed else [])]
    opened = _CHANNEL.match(text)
    final = _FINAL.search(text) if opened or "final" in text else None
    if opened and (final or _CHANNEL_AND_PROSE.match(text)):
        return [(0, opened.end(), "<think>"), *([(*final.span(), "</think>")] if final else [])]
    if final and (final.start() == 0 or _BEFORE_FINAL.search(text, max(0, final.start() - 2), final.start())):
        return [(*final.span(), "</think>")]
    return []


class _Scan:
    """One pass over the tokens of a text that decides which parts are kept."""

    def __init__(self, edited: EditedText) -> None:
        self._edited = edited
        self._text = text = edited.text
        self._literals = _Literals(text)
        self._kept: list[str] = []
        self._kept_length = 0
        self._thoughts: list[Thought] = []
        self._thought_start = 0  # end of the last tag that opened a thought outside thoughts
        self._decided = 0  # text[:decided] is kept or dropped already
        self._restart = 0  # text[:restart] is dropped except its newlines
        self._num_leading_lines = 0  # newlines of text[:restart]
        self._open: list[ChatToken] = []  # open thoughts, outermost first
        self._last_end = 0  # end of the previous token
        self._has_begun = False  # the text so far holds more than special tokens
        self._answer_has_begun = False  # the kept part of the text so far holds more than special tokens
        self._in_other_turn = False
        self._acted_on: list[ChatToken] = []
        self._last_closing: dict[str, int] = {}  # opening tag in square brackets -> position of its last closing tag

    def answer(self, tokens: list[ChatToken]) -> Answer:
        """Scan the text's tokens and return the answer."""
        text, end = self._text, len(self._text)
        for token in tokens[_first_to_process(tokens) :]:
            has_text = bool(text[self._last_end : token.start].strip())
            self._has_begun = self._has_begun or has_text
            self._answer_has_begun = self._answer_has_begun or (has_text and not (self._open or self._in_other_turn))
            if self._is_quoted(token):
                self._has_begun = True
                self._answer_has_begun = self._answer_has_begun or not self._open
            elif self._in_thought(token) if self._open else self._outside_thought(token):
                end = token.start
                self._acted_on.append(token)
                break
            self._last_end = token.end
        rest = text[self._decided : end]
        if self._open or self._in_other_turn:
            self._add_thought(end, end)
            rest = _newlines(rest)
        answer = "".join([*self._kept, rest])
        if self._open and not lexical.has_end_marker(answer):
            answer = _newlines(answer)  # the model has begun to think again: it may have changed its answer
        return Answer(
            text="\n" * self._num_leading_lines + answer,
            no_answer_reason=self._no_answer_reason(),
            verbatim=self._verbatim(),
            thoughts=self._all_thoughts(),
        )

    def _all_thoughts(self) -> tuple[Thought, ...]:
        end, moved_by = self._restart, self._num_leading_lines
        first = [Thought(0, self._edited.original(end), 0, self._text[:end])] if end else []
        return (*first, *(thought._replace(at=moved_by + thought.at) for thought in self._thoughts))

    def _no_answer_reason(self) -> str:
        if self._open:
            opening = self._open[0]
            line = self._text.count("\n", 0, opening.start) + 1
            tag = self._text[opening.start : opening.end].strip()
            return f"the thought that {tag} opens on line {line} is not finished"
        if self._in_other_turn:
            return "the completion holds the turn of another role"
        return "nothing but a thought or special tokens" if self._acted_on else ""

    def _is_quoted(self, token: ChatToken) -> bool:
        before, after = self._text[max(0, token.start - 1) : token.start], self._text[token.end : token.end + 1]
        if before and _QUOTES.get(before) == after:
            return True
        # Prose is full of lone quotes, so text inside a thought or before a closing tag is not lexed as code.
        if self._open:
            return False
        if token.kind is TokenKind.CLOSES_THOUGHT:
            return self._literals.contain_within_line(token.start)
        return token.kind is not TokenKind.STARTS_ANSWER and self._literals.contain(token.start, self._decided)

    def _in_thought(self, token: ChatToken) -> bool:
        """Act on a token inside a thought; return True if the answer ends there."""
        kind = token.kind
        if kind is TokenKind.OPENS_THOUGHT:
            last = self._open[-1]
            is_next = last.end == self._last_end and not self._text[self._last_end : token.start].strip()
            if token.family == last.family and is_next:
                self._open[-1] = token  # the prompt opened the thought and the model opened it again
            elif len(self._open) < _MAX_NESTED_THOUGHTS:
                self._open.append(token)
        elif kind is TokenKind.CLOSES_THOUGHT:
            families = [thought.family for thought in self._open]
            closed = token.family if token.family in families else CHANNEL
            if closed in families:
                del self._open[len(families) - 1 - families[::-1].index(closed) :]
            if not self._open:
                self._add_thought(token.start, token.end)
                self._drop_to(token)
        elif kind is TokenKind.STARTS_ANSWER:
            self._open.clear()
            self._restart_after(token)
        elif kind in (TokenKind.ENDS_TEXT, TokenKind.STARTS_TEXT):
            return self._open[0].family != CHANNEL and _LINE_ENDS.match(self._text, token.end) is not None
        return kind is TokenKind.OTHER_TURN

    def _outside_thought(self, token: ChatToken) -> bool:
        """Act on a token outside thoughts; return True if the answer ends there."""
        kind = token.kind
        if kind is TokenKind.OPENS_THOUGHT:
            if not token.may_be_code or self._is_tag(token):
                self._keep_to(token)
                self._thought_start = token.end
                self._open.append(token)
                self._acted_on.append(token)
        elif kind in (TokenKind.CLOSES_THOUGHT, TokenKind.STARTS_ANSWER) or (
            self._in_other_turn and kind is TokenKind.ASSISTANT_TURN
        ):
            self._restart_after(token)
        elif kind is TokenKind.IGNORED:
            if self._is_at_edge(token):
                self._keep_to(token)
                self._drop_to(token)
        elif (self._answer_has_begun if kind in _MAY_PRECEDE_ANSWER else self._has_begun) and not self._in_other_turn:
            return True
        else:
            self._drop_to(token)
            self._in_other_turn = self._in_other_turn or kind is TokenKind.OTHER_TURN
        return False

    def _keep_to(self, token: ChatToken) -> None:
        self._keep(self._text[self._decided : token.start])
        self._decided = token.start

    def _keep(self, text: str) -> None:
        self._kept.append(text)
        self._kept_length += len(text)

    def _add_thought(self, closing: int, end: int) -> None:
        """Record the thought from the last decided position on; its closing tag is ``text[closing:end]``."""
        original, text = self._edited.original, self._text[self._thought_start : closing]
        self._thoughts.append(Thought(original(self._decided), original(end), self._kept_length, text))

    def _drop_to(self, token: ChatToken) -> None:
        # The space separates the words before and after the dropped text.
        self._keep(_newlines(self._text[self._decided : token.end]) + " ")
        self._decided = token.end
        self._acted_on.append(token)

    def _restart_after(self, token: ChatToken) -> None:
        """Drop all text before the token: it was a thought or another role's turn."""
        self._num_leading_lines += self._text.count("\n", self._restart, token.end)
        self._restart = self._decided = token.end
        self._kept, self._kept_length = [" "], 1
        self._thoughts = []
        self._acted_on.append(token)
        self._has_begun = self._answer_has_begun = self._in_other_turn = False

    def _is_tag(self, token: ChatToken) -> bool:
        """Return whether a tag in square brackets is a tag rather than a list in code."""
        written = self._text[token.start : token.end]
        if not self._has_begun or (written.isupper() and starts_line(self._text, token.start)):
            return True
        if written not in self._last_closing:
            self._last_closing[written] = self._text.rfind(f"[/{written[1:]}")
        return self._last_closing[written] > token.start

    def _is_at_edge(self, token: ChatToken) -> bool:
        """Return whether a token starts or ends a line or touches another one; otherwise it may be operators in code."""
        before = self._text[self._last_end : token.start]
        after = self._text[token.end : token.end + _MAX_LINE_CHARS]
        touches = self._last_end > 0 and not before
        return touches or starts_line(self._text, token.start) or bool(_LINE_ENDS.match(after))

    def _verbatim(self) -> str:
        if not self._acted_on or not begins_with_code(self._text):
            return ""
        literals = [span for span in lexical.spans(self._text) if _is_literal(span)]
        starts = [span.start for span in literals]
        for token in self._acted_on:
            index = bisect_right(starts, token.start) - 1
            if index < 0 or literals[index].end < token.end:
                return ""
        return self._text


class _Literals:
    """Literals and comments of the code in a text that may hold prose as well."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._fences: list[tuple[int, int]] | None = None
        self._code_starts: dict[int, int | None] = {}  # start of a part between fences -> its first line of code
        self._spans: dict[int, list[Span]] = {}  # start of code -> its spans
        self._budget = 8 * len(text) + 10_000  # characters to lex in all: bounds the work on a text of many tokens

    def contain(self, position: int, floor: int) -> bool:
        """Return whether ``position`` is inside a literal or a comment, if the text from ``floor`` on is code."""
        if self._fences is None:
            self._fences = [found.span() for found in _FENCE_LINE.finditer(self._text)]
        before = bisect_right(self._fences, (position, 0)) - 1
        start = max(floor, self._fences[before][1] if before >= 0 else 0)
        end = self._fences[before + 1][0] if before + 1 < len(self._fences) else len(self._text)
        if start not in self._code_starts:
            self._budget -= end - start
            if self._budget < 0:
                return False
            self._code_starts[start] = first_code_line(self._text, start, end)
        first = self._code_starts[start]
        start = start if first is None or first > position else first
        if start not in self._spans:
            self._budget -= end - start
            if self._budget < 0:
                return False
            self._spans[start] = lexical.spans(self._text[start:end])
        return _holds(self._spans[start], position - start)

    def contain_within_line(self, position: int) -> bool:
        """Return whether ``position`` is inside a literal or a comment that begins and ends on its line."""
        start = max(self._text.rfind("\n", 0, position) + 1, position - _MAX_LINE_CHARS)
        end = self._text.find("\n", position, position + _MAX_LINE_CHARS)
        line = self._text[start : end if end >= 0 else position + _MAX_LINE_CHARS]
        return _holds(lexical.spans(line), position - start)


def _first_to_process(tokens: list[ChatToken]) -> int:
    """Index of the first token to process: the start of the answer's channel, unless another role's turn precedes it."""
    for index, token in enumerate(tokens):
        if token.kind is TokenKind.STARTS_ANSWER:
            return index
        if token.kind is TokenKind.OTHER_TURN:
            return 0
    return 0


def _is_literal(span: Span) -> bool:
    return span.closed and span.kind is not lexical.Kind.CODE


def _holds(spans: list[Span], position: int) -> bool:
    index = bisect_right(spans, position, key=lambda span: span.start) - 1
    return 0 <= index < len(spans) and _is_literal(spans[index]) and position < spans[index].end


def _newlines(text: str) -> str:
    """Return only the newlines of a text."""
    return "\n" * text.count("\n")
