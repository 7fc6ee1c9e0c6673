"""Predicates on single lines of text: whether a line starts OCaml, is prose, or is only blanks. Pure and linear.

The extraction reads a completion in stages, and each stage imports only earlier ones::

    lexical, lines -> chat_tokens, thoughts -> answer -> blocks -> prose -> extract -> quality_flags
"""

import re

_NOT_NEWLINES = re.compile(r"[^\n]+")
MAX_INDENT = 80
"""Number of characters searched backwards for the start of a line: keeps one huge line as cheap as many short ones."""

_WORD = r"[`\u201c]?[A-Za-z0-9'\u2019_]++[`\u201d]?[,.:;!?]?"
_SENTENCE = rf"[A-Z][A-Za-z'\u2019]*+(?! of\b)[,:!.]?(?:[ ]{_WORD}){{2}}(?:[ .,:;!?]|$)"
_HEADING = r"#{1,6} [A-Za-z`*]|\*\*[A-Z`][^*\n]*+\*\*|[A-Z][A-Za-z' ]*+:[ \t]*$|(?:---+|\*\*\*+|===+)[ \t]*$"
_ITEM = rf"(?:[-*+\u2022]|\d+[.)]|>) +(?:\*\*[A-Z`]|`[^`\n]+`|{_SENTENCE})"
_PROSE = re.compile(rf"{_SENTENCE}|{_HEADING}|{_ITEM}")
# Used only after an empty line, where a new paragraph is more likely than the rest of an expression.
_PARAGRAPH = re.compile(
    r"[-*\u2022] |\d+[.)] |> |\*\*[A-Z]|[A-Z][A-Za-z'\u2019]*+(?:[ ,]+[`(]?[A-Za-z'\u2019`_]+[`),]?){2,}"
)
_CODE_OPERATOR = re.compile(r"->|:=|;;|\|>|\|\||&&")
_CODE_LINE = re.compile(
    r"^[ \t]*(?:let|type|module|open|exception|include|external|class|\(\*|;;)(?![A-Za-z0-9_'])", re.MULTILINE
)
CODE_START = re.compile(r"\s*(?:(?:let|type|module|open|exception|include|class)\s|\(\*)")
"""Matches where code begins with a definition or a comment."""


def blank(text: str) -> str:
    """Replace every character except newlines by a space, so that positions and line numbers do not change."""
    return _NOT_NEWLINES.sub(lambda line: " " * len(line.group()), text)


def first_code_line(text: str, start: int, end: int) -> int | None:
    """Start of the first line of ``text[start:end]`` that begins like OCaml."""
    found = _CODE_LINE.search(text, start, end)
    return found.start() if found else None


def begins_with_code(text: str) -> bool:
    """Return whether a text begins with a definition or a comment, not with prose or a fence."""
    return CODE_START.match(text) is not None


def starts_line(text: str, position: int) -> bool:
    """Return whether only blanks precede ``position`` on its line."""
    before = text[max(0, position - MAX_INDENT) : position]
    line = before.rpartition("\n")[2]
    return not line.strip(" \t") and len(line) < MAX_INDENT


def is_prose(line: str, *, new_paragraph: bool = False) -> bool:
    """Return whether an unindented line is a sentence, a heading or a list item, and not OCaml."""
    found = _PROSE.match(line) or (new_paragraph and _PARAGRAPH.match(line))
    return bool(found) and _CODE_OPERATOR.search(line) is None
