"""OCaml's comments and literals in any text, well-formed or not.

Linear in the text: every pattern is possessive, and an unclosed comment or literal ends with the text, so that nothing is
read twice.
"""

import re
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

_END = re.compile(r"\(\*\s*END\s*\*\)")
_STRING_REST = r'(?:[^"\\]++|\\.)*+"'
# An identifier may hold apostrophes (x'), which open no character literal.
_CHAR_REST = r"(?<![A-Za-z0-9_']')(?:[^'\\\n]|\\(?:[\\'\"ntbr ]|[0-9]{3}|x[0-9a-fA-F]{2}|o[0-3][0-7]{2}))'"
_QUOTED_REST = r"(?:%%?[a-z_.A-Z0-9']*+[ \t]*+)?[a-z_]*+\|"
_QUOTED_IDENTIFIER = re.compile(r"\{(?:%%?[a-z_.A-Z0-9']*+[ \t]*+)?([a-z_]*+)\|")
# A comment without a nested comment or quoted string; literals in comments are respected, as in OCaml.
_PLAIN_COMMENT_REST = (
    rf"\*(?:[^*(\"'{{]++|\*(?!\))|\((?!\*)|\"{_STRING_REST}|'{_CHAR_REST}|'|(?!\{{{_QUOTED_REST})\{{)*+\*\)"
)
# Each alternative looks back at its first character: `re` searches a pattern that begins with a set of characters several
# times faster than one that begins with alternatives.
_TOKEN = re.compile(
    rf"""["'({{](?:(?<=\(){_PLAIN_COMMENT_REST}|(?<="){_STRING_REST}|(?<='){_CHAR_REST}|(?<=\{{)\|.*?\|\}}"""
    rf"""|(?P<bare>(?<=\()\*|(?<=")|(?<=\{{){_QUOTED_REST}))""",
    re.DOTALL,
)
_IN_COMMENT = re.compile(
    rf"""[*"'({{](?:(?<=\()\*|(?<=\*)\)|(?<="){_STRING_REST}|(?<='){_CHAR_REST}"""
    rf"""|(?P<bare>(?<=")|(?<=\{{){_QUOTED_REST}))""",
    re.DOTALL,
)
_READABLE_END = re.compile(r"\*\)\s*+(?=(?:let|type|module|open|exception)\b)")
_CODE_LINE = re.compile(r"\S[^\n]*")


class Kind(Enum):
    """Kind of a span."""

    CODE = "code"
    COMMENT = "comment"
    STRING = "string"  # string and character literals


class Span(NamedTuple):
    """A span, ``text[start:end]``; not closed if the text ends first. A tuple, since it is created very often."""

    kind: Kind
    start: int
    end: int
    closed: bool = True


def spans(text: str) -> list[Span]:
    """Split a text into spans of code, comments and literals, which together cover it."""
    found: list[Span] = []
    code_start: int | None = 0
    while code_start is not None:
        code_start = _add_spans(text, code_start, found)
    return found


def _add_spans(text: str, code_start: int, found: list[Span]) -> int | None:
    """Add spans up to the first token whose opening alone ``_TOKEN`` matches, and return the end of this token.

    None: the text has no such token.
    """
    code, comment, string = Kind.CODE, Kind.COMMENT, Kind.STRING
    for token in _TOKEN.finditer(text, code_start):
        start, end = token.span()
        bare, closed = token.lastgroup is not None, True
        if bare:
            end, closed = _end_of(text, token)
        if start > code_start:
            found.append(Span(code, code_start, start))
        found.append(Span(comment if text[start] == "(" else string, start, end, closed))
        code_start = end
        if bare:
            return end
    if code_start < len(text):
        found.append(Span(code, code_start, len(text)))
    return None


def _end_of(text: str, bare: re.Match[str]) -> tuple[int, bool]:
    """End of a comment or literal of which only the opening was matched, and whether it is closed."""
    opening = bare.group()
    if opening == "(*":
        # In OCaml ``(*)`` opens a comment as well (with a warning).
        end = _comment_end(text, bare.start())
        return (len(text), False) if end is None else (end, True)
    if opening == '"':
        return len(text), False
    identifier = _QUOTED_IDENTIFIER.match(opening)
    closing = f"|{identifier.group(1) if identifier else ''}}}"
    found = text.find(closing, bare.end())
    return (len(text), False) if found < 0 else (found + len(closing), True)


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
        elif found.lastgroup:
            position, closed = _end_of(text, found)
            if not closed:
                return None
    return None


def readable_comment_end(text: str) -> int | None:
    """End of a text's leading comment for a human reader, if OCaml does not end it there because a quote opens a string.

    None if OCaml ends the comment there too, or if no definition follows.
    """
    first = _TOKEN.match(text)
    if first is None or first.lastgroup is None or _end_of(text, first)[1]:
        return None
    found = _READABLE_END.search(text)
    return found.end() if found else None


def end_marker(text: str, text_spans: Sequence[Span] | None = None) -> int | None:
    """Position of the first ``(* END *)`` that is not inside a literal or another comment."""
    if "END" not in text:
        return None
    comment = Kind.COMMENT
    ends = {span.start: span.end for span in text_spans or spans(text) if span.kind is comment and span.closed}
    for marker in _END.finditer(text):
        if ends.get(marker.start()) == marker.end():
            return marker.start()
    return None


def has_end_marker(text: str) -> bool:
    """Return whether a text that is not a program, such as the text after a code fence, contains the marker."""
    return _END.search(text) is not None


def without_comments(text: str) -> str:
    """Replace every comment by a space."""
    if "(*" not in text:
        return text
    parts, position = [], 0
    for token in _TOKEN.finditer(text):
        if token.lastgroup is not None:  # only its opening was matched
            return "".join([" " if span.kind is Kind.COMMENT else text[span.start : span.end] for span in spans(text)])
        if text[token.start()] == "(":
            parts.append(text[position : token.start()])
            position = token.end()
    return " ".join([*parts, text[position:]])


def num_lines(text: str) -> int:
    """Number of non-blank lines. Only a newline ends a line: a form feed is a blank in OCaml."""
    return len(_CODE_LINE.findall(text))


def num_code_lines(program: str) -> int:
    """Number of non-blank lines after comments are removed."""
    return num_lines(without_comments(program))
