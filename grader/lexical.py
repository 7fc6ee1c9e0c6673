"""OCaml's lexical layer, as far as finding comments and strings needs it: in any text, well-formed or not."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

_END = re.compile(r"\(\*\s*END\s*\*\)")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_CHAR = re.compile(r"'(?:[^'\\\n]|\\(?:[\\'\"ntbr ]|[0-9]{3}|x[0-9a-fA-F]{2}|o[0-3][0-7]{2}))'")
_QUOTED_OPENING = re.compile(r"\{(%%?[a-z_.A-Z0-9']*[ \t]*)?([a-z_]*)\|")
_INTERESTING = re.compile(r"""\(\*|"|'|\{(?=[%a-z_|])""")
_IN_COMMENT = re.compile(r"""\(\*|\*\)|"|'|\{(?=[%a-z_|])""")
# An identifier may hold apostrophes (x'), which open no character literal.
_WORD_BEFORE = re.compile(r"[A-Za-z0-9_']\Z")


class Kind(Enum):
    """What a stretch of text is."""

    CODE = "code"
    COMMENT = "comment"
    STRING = "string"  # string and character literals


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch: ``text[start:end]``; not closed where the text ends first."""

    kind: Kind
    start: int
    end: int
    closed: bool = True


def spans(text: str) -> Iterator[Span]:
    """Cut a text into code, comments and literals; together they cover it."""
    code_start = position = 0
    while found := _INTERESTING.search(text, position):
        span = _span_at(text, found.start())
        if span is None:
            position = found.end()
            continue
        if span.start > code_start:
            yield Span(Kind.CODE, code_start, span.start)
        yield span
        code_start = position = span.end
    if code_start < len(text):
        yield Span(Kind.CODE, code_start, len(text))


def _span_at(text: str, start: int) -> Span | None:
    if text.startswith("(*", start):
        # The operator in ``(*)`` is a warning in OCaml and opens a comment all the same.
        end = _comment_end(text, start)
        return Span(Kind.COMMENT, start, len(text) if end is None else end, end is not None)
    literal = _literal_end(text, start)
    if literal is None:
        return None
    end, closed = literal
    return Span(Kind.STRING, start, end, closed)


def _literal_end(text: str, start: int) -> tuple[int, bool] | None:
    """Where the literal at ``start`` ends and whether it is closed; None where none begins there."""
    if text[start] == '"':
        string = _STRING.match(text, start)
        return (string.end(), True) if string else (len(text), False)
    if text[start] == "'":
        char = _CHAR.match(text, start)
        if char is None or _WORD_BEFORE.search(text[max(0, start - 1) : start]):
            return None
        return char.end(), True
    opening = _QUOTED_OPENING.match(text, start)
    if opening is None:
        return None
    closing = f"|{opening.group(2)}}}"
    end = text.find(closing, opening.end())
    return (end + len(closing), True) if end >= 0 else (len(text), False)


def _comment_end(text: str, start: int) -> int | None:
    depth, position = 1, start + 2
    while found := _IN_COMMENT.search(text, position):
        position = found.end()
        if found.group() == "(*":
            depth += 1
        elif found.group() == "*)":
            depth -= 1
            if depth == 0:
                return position
        else:
            literal = _literal_end(text, found.start())
            if literal is not None:
                position, closed = literal
                if not closed:
                    return None
    return None


def end_marker(text: str) -> int | None:
    """Where the first real ``(* END *)`` begins; one inside a literal or another comment is not real."""
    for span in spans(text):
        if span.kind is Kind.COMMENT and span.closed and _END.fullmatch(text, span.start, span.end):
            return span.start
    return None


def has_end_marker(text: str) -> bool:
    """Whether a text that is no program (what follows a code fence) holds the marker."""
    return _END.search(text) is not None


def without_comments(text: str) -> str:
    """The text with every comment replaced by a space."""
    return "".join(" " if span.kind is Kind.COMMENT else text[span.start : span.end] for span in spans(text))


def num_code_lines(program: str) -> int:
    """Non-blank lines left when comments are removed; the lines of a comment do not count, nor those it shares."""
    return sum(1 for line in without_comments(program).splitlines() if line.strip())
