"""A completion's text -> the OCaml programs that it may be read as. Pure.

Models answer with code, with code in Markdown fences, with prose around it, or with only the body that continues the
signature. Which reading is meant is not guessed from the looks of it: this module lists the readings, best first, and the
front end takes the first that parses and binds the problem's name (``grader/ocaml/front.ml``).

No time limit stands around this module: whatever it does to a text takes time and memory linear in its length.
"""

import re
from bisect import bisect_right
from dataclasses import dataclass

from grader import lexical
from grader.lexical import Kind

_FENCE = re.compile(r"^[ \t]*(?:```+|~~~+)[ \t]*([A-Za-z+#]*)[^\n`]*$", re.MULTILINE)
_CHAT_TOKENS = re.compile(r"(?:<\|[A-Za-z0-9_]+\|>\s*)+")
_OCAML_TAGS = frozenset({"ocaml", "ml", "caml", "reasonml"})
_STARTER = re.compile(
    r"^(?:let|type|module|open|exception|include|external|class|\(\*|;;)(?![A-Za-z0-9_'])", re.MULTILINE
)
_PROSE = re.compile(
    r"#+ |[-*\u2022] |\d+[.)] |> |\*\*[A-Z]"  # Markdown
    r"|[A-Z][A-Za-z'\u2019]*(?:[ ,]+[`(]?[A-Za-z'\u2019`_]+[`),]?){2,}"  # a capitalized word and two more
    r"|[A-Z][A-Za-z' ]*:\s*$"  # a heading
)
_CODE_SIGNS = re.compile(r"->|:=|;;|\|>|\|\||&&")
_SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u202f\u200b\ufeff"), " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One way to read a completion as a program."""

    program: str
    has_signature: bool  # the problem's signature was put in front


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """What a completion may mean, best first; no readings where there is no code in it."""

    readings: tuple[Reading, ...]
    has_end_marker: bool
    together: Reading | None = None  # with the earlier blocks of code in front, for an answer that is given in parts


def extract(text: str, *, signature: str, name: str, statement: str) -> Extraction:
    """Read a completion.

    Args:
        text: the completion as sampled.
        signature: what the problem's solution starts with, ``let f (x : int) : int =``.
        name: the name that the signature binds.
        statement: the problem's statement, so that a completion that repeats it can be told from one that answers it.
    """
    text = _without_chat_tokens(text.replace("\r\n", "\n").replace("\r", "\n"))
    earlier, code, rest = _fenced(text, name)
    code = _without_repeated_statement(code, statement)
    end = lexical.end_marker(code)
    found_end = end is not None or lexical.has_end_marker(rest)
    if end is not None:
        code = code[:end]
    code = _plain_spaces(code)
    if not lexical.without_comments(code).strip():
        return Extraction(readings=(), has_end_marker=found_end)
    whole = [code]
    for trimmed in (_without_leading_prose(code), _without_trailing_prose(_without_leading_prose(code))):
        if trimmed not in whole and lexical.without_comments(trimmed).strip():
            whole.append(trimmed)
    readings = [Reading(program=program, has_signature=False) for program in whole]
    body = Reading(program=f"{signature}\n{code}", has_signature=True)
    # If nothing parses, the first reading is the one whose syntax error is reported.
    first = 0 if _mentions_definition(code, name) else len(readings)
    if first:
        readings.insert(0, body)
    else:
        readings.append(body)
    together = Reading(program=f"{_plain_spaces(earlier)}\n{code}", has_signature=False) if earlier else None
    return Extraction(readings=tuple(readings), has_end_marker=found_end, together=together)


def _without_chat_tokens(text: str) -> str:
    # An anchored search would try every token again as a start: each run of them is looked at once instead.
    for run in _CHAT_TOKENS.finditer(text):
        if run.end() == len(text):
            return text[: run.start()]
    return text


def _mentions_definition(code: str, name: str) -> bool:
    bare = name if re.match(r"[a-z_]", name) else f"( {name} )"
    pattern = rf"^[^\S\n]*(?:let|and)\s+(?:rec\s+)?{re.escape(bare)}(?![A-Za-z0-9_'])"
    return re.search(pattern, code, re.MULTILINE) is not None


def _fenced(text: str, name: str) -> tuple[str, str, str]:
    """The OCaml blocks before the code, the code, and what follows it.

    The code is the last fenced block that defines the name, else the last OCaml block.
    """
    fences = list(_FENCE.finditer(text))
    if not fences:
        return "", text, ""
    if len(fences) == 1 and not fences[0].group(1) and text[: fences[0].start()].strip():
        # A fence that was opened in the prompt, or never: what stands before it is the code.
        before = text[: fences[0].start()]
        if not _PROSE.match(before.lstrip()):
            return "", before, text[fences[0].end() :]
    blocks = []
    for opening, closing in _pairs(fences):
        end, after = (len(text), len(text)) if closing is None else closing.span()
        blocks.append((opening.group(1).lower(), text[opening.end() : end], after))
    blocks = [block for block in blocks if block[1].strip()] or blocks
    defining = [block for block in blocks if _mentions_definition(block[1], name)]
    tagged = [block for block in blocks if block[0] in _OCAML_TAGS]
    chosen = (defining or tagged or blocks)[-1]
    earlier = [code for tag, code, _ in blocks[: blocks.index(chosen)] if not tag or tag in _OCAML_TAGS]
    _, code, after = chosen
    return "\n".join(earlier), code, text[after:]


def _pairs(fences: list[re.Match[str]]) -> list[tuple[re.Match[str], re.Match[str] | None]]:
    """Opening and closing fences; a tagged fence always opens, so that an unclosed block ends there."""
    pairs: list[tuple[re.Match[str], re.Match[str] | None]] = []
    opening: re.Match[str] | None = None
    for fence in fences:
        if opening is None:
            opening = fence
        else:
            pairs.append((opening, fence))
            opening = fence if fence.group(1) else None
    if opening is not None:
        pairs.append((opening, None))
    return pairs


def _without_repeated_statement(code: str, statement: str) -> str:
    """Drop a copy of the statement's doc comment: it is the data's text, and may not even lex (a lone quote in prose)."""
    comment = statement.strip()
    stripped = code.lstrip()
    if comment.startswith("(*") and stripped.startswith(comment):
        return stripped[len(comment) :]
    if not stripped.startswith("(*") or lexical.end_marker(stripped) == 0:
        return code
    first = next(lexical.spans(stripped))
    if first.closed:
        return code
    # Closed for a reader, not for OCaml's lexer: a leading comment that ends before a definition.
    found = re.search(r"\*\)\s*(?=let\b|type\b|module\b|open\b|exception\b)", stripped)
    return stripped[found.end() :] if found else code


def _plain_spaces(code: str) -> str:
    """No-break spaces outside of literals become spaces."""
    if code.isascii():
        return code
    parts = (
        code[span.start : span.end] if span.kind is Kind.STRING else code[span.start : span.end].translate(_SPACES)
        for span in lexical.spans(code)
    )
    return "".join(parts)


def _is_prose(line: str) -> bool:
    return _PROSE.match(line) is not None and _CODE_SIGNS.search(line) is None


def _without_leading_prose(code: str) -> str:
    starter = _STARTER.search(code)
    before = code[: starter.start()].strip() if starter else ""
    if starter and before and _is_prose(before.splitlines()[0].strip()):
        return code[starter.start() :]
    return code


def _without_trailing_prose(code: str) -> str:
    """Cut from the first unindented line of prose, after an empty line, that no comment or literal holds."""
    stretches = list(lexical.spans(code))
    starts = [span.start for span in stretches]
    for found in re.finditer(r"(?<=\n\n)[^\s\n][^\n]*", code):
        if stretches[bisect_right(starts, found.start()) - 1].kind is Kind.CODE and _is_prose(found.group()):
            return code[: found.start()]
    return code
