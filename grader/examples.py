"""The examples of a statement, and definitions in its prose. Pure.

Lenient on purpose: text that only looks like an example is dropped later, by the parser.
"""

import re
from collections.abc import Sequence

from grader.signature import given_definitions

_DECORATION = re.compile(r"^[ \t\u00a0]*(?:\(\*+|\*(?!\)))?[ \t\u00a0]?")
_PROMPT = re.compile(r"^\s*(?:>>>|utop(?:\[\d+\]|\s*#)?>?|#|\$)\s*(?=\S)")
_UTOP_ANSWER = re.compile(r"^(?:-|val\s+\w+)\s*:[^=]*=\s*")
_ARROW = re.compile(r"\s*(?:=>|-->|->|\u2192|\u21d2|==>|returns|evaluates to|gives|should be|should return)\s*")
_DEFINITION = re.compile(r"^\s*(?:type|exception|module)\s+['a-zA-Z_(]")
_SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u202f\ufeff"), " ")
_MAX_EXAMPLES = 64
_MAX_DEFINITIONS = 8


def doc_lines(statement: str) -> list[str]:
    """Lines of a statement without the delimiters and leading stars of its comment."""
    text = statement.translate(_SPACES).replace("\r\n", "\n").replace("\r", "\n").replace("*)", "\n")
    return [_DECORATION.sub("", line, count=1).rstrip() for line in text.split("\n")]


def examples(statement: str, name: str) -> list[tuple[str, str]]:
    """Calls and their values as the statement writes them; the value is empty if the call contains it (``f 1 = 2``)."""
    lines = doc_lines(statement)
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(lines) and len(found) < _MAX_EXAMPLES:
        prompt = _PROMPT.match(lines[position])
        position += 1
        if prompt is None:
            found += _in_prose(lines[position - 1], name)
            continue
        call = lines[position - 1][prompt.end() :]
        answer: list[str] = []
        while position < len(lines) and lines[position].strip() and not _PROMPT.match(lines[position]):
            answer.append(lines[position].strip())
            position += 1
        found += _prompted(call, answer)
    return found


def _prompted(call: str, answer: Sequence[str]) -> list[tuple[str, str]]:
    """Examples after a prompt. The value is the text up to the next prompt, or its first line, or follows an arrow."""
    call = call.strip().rstrip(";").strip()
    found = []
    if answer:
        values = dict.fromkeys((" ".join(answer), answer[0]))
        found += [(call, _UTOP_ANSWER.sub("", value, count=1).strip()) for value in values]
    else:
        found += [*_arrows(call), (call, "")]
    return found


def _in_prose(line: str, name: str) -> list[tuple[str, str]]:
    """Examples in a line that calls the function: ``gcd 4 6 = 2``, ``- `gcd 4 6` returns 2``."""
    if not name or not re.search(rf"(?<![\w']){re.escape(name)}(?![\w'])", line):
        return []
    text = line.replace("`", "").strip()
    text = text[text.find(name) :].rstrip(";. ")
    return [*_arrows(text), (text, "")]


def _arrows(text: str) -> list[tuple[str, str]]:
    """The two sides of the last arrow, if there is one; earlier arrows may belong to lambdas in the call."""
    arrows = list(_ARROW.finditer(text))
    return [(text[: arrows[-1].start()].strip(), text[arrows[-1].end() :].strip())] if arrows else []


def described_definitions(statement: str) -> list[str]:
    """Types, exceptions and modules that the comment's prose defines: every group of lines that may be a definition."""
    if given_definitions(statement):
        statement = statement[: statement.find("*)") + 2] if "*)" in statement else ""
    lines = [line.replace("`", "") for line in doc_lines(statement)]
    found: list[str] = []
    for start, line in enumerate(lines):
        if _DEFINITION.match(line) and len(found) < _MAX_DEFINITIONS:
            end = start + 1
            while (
                end < len(lines)
                and lines[end].strip()
                and re.match(r"\s*(?:\||and\b|[a-z_]+\s*:|\}|\s{2,}\S)", lines[end])
            ):
                end += 1
            found.append("\n".join(lines[start:end]).rstrip(". "))
    return found


def signature_candidates(signature: str, stub: str) -> list[str]:
    """Candidate programs that start with a signature, with ``stub`` for the open part: a body, cases, or an ``and``."""
    filled = re.sub(r"=\s*(?=and\b)", f"= {stub} ", signature)
    return [f"{filled}\n {stub}", f"{filled}\n _ -> {stub}", filled, f"{filled}\n {stub} end"]
