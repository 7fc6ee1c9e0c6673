"""Markdown and placeholder bodies around the signature in a data set's prompt. Pure."""

import re
from typing import NamedTuple

from grader.lexical import Kind, spans

_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]*$\n?", re.MULTILINE)
_OCAML = ("ocaml", "ml", "mli", "caml")
_CODE_LINE = re.compile(r"^[ \t]*(?:let|type|module|exception|open|external|\(\*)(?![\w'])", re.MULTILINE)
_OPERATOR = "!$%&*+-./:<=>?@^|~"

_TEXT = r'(?:"(?:[^"\\]|\\.)*"|\{\w*\|.*?\|\w*\})'
_RAISING = (
    rf"(?:failwith|invalid_arg)\s*(?:@@\s*)?(?:{_TEXT}|\(\s*{_TEXT}\s*\))"
    rf"|raise\s*(?:@@\s*)?(?:\((?:[^()\"]|{_TEXT})*\)|[A-Z][\w.']*(?:\s*{_TEXT})?)"
    r"|assert\s*\(?\s*false\s*\)?"
    r"|(?:todo|not_implemented|unimplemented)\s*(?:\(\)|!)?"
    r"|Obj\.magic\s+\S+|exit\s+\d+"
)
_BLANK = (
    r"\.{2,}|\u2026|\?+|_+|<[^<>\n]*>|\[\s*(?:your|insert|todo|fill|code)\b[^\]\n]*\]"
    r"|(?:#|//|--)[^\n]*(?:\n\s*(?:#|//|--)[^\n]*)*"
    r'|"[^"]*\b(?:code|implement\w*|todo|solution)\b[^"]*"'
    r"|(?:TODO|FIXME)\b[^\n]*|(?:pass|your[ _]code(?:[ _]here)?|(?:write|add|insert|put) your (?:code|solution)(?: here)?)[.:!]*"
)
_CONSTANT = r"\(\s*\)|0\.?0*|\[\s*\]|\[\|\s*\|\]|\"\"|None|true|false"
_UNUSED = r"(?:(?:ignore\s+[^;\n]+;|let\s+_\w*\s*=[^\n]*?\bin\b)\s*)*+"
_BOUND = rf"let\s+[\w']+(?:\s*:[^=]*)?\s*=\s*(?:{_RAISING}|{_BLANK})\s*in\b.*"
_ONE = rf"{_BOUND}|{_UNUSED}(?:fun(?:ction)?\s+[\w'()\s,:~?]*->\s*)?(?:{_RAISING}|{_BLANK}|{_CONSTANT})"
_PLACEHOLDER = rf"(?:{_ONE}|\(\s*(?:{_ONE})\s*\)|begin\s+(?:{_ONE})\s+end)\s*(?:;;)?\s*"
_WHOLE = re.compile(_PLACEHOLDER, re.IGNORECASE | re.DOTALL)
_BEFORE_AND = re.compile(rf"(=\s*)(?:{_PLACEHOLDER})(?=\n\s*and\b|\Z)", re.IGNORECASE | re.DOTALL)
_AND = re.compile(r"\n\s*and\b")
_MAX_PLACEHOLDER_CHARS = 500
_INVITATION = re.compile(
    r"\(\*+[^a-z]*(?:your|write|fill|add|insert|put|replace|implement|complete|begin|end|todo|fixme|body|code|solution|\*\))",
    re.IGNORECASE,
)
_MAX_INVITATION_CHARS = 100  # a longer comment describes the task


class Segment(NamedTuple):
    """Part of a prompt between two fences, or before or after them."""

    text: str
    is_code: bool  # inside a fence that may hold OCaml


def segments(prompt: str, in_comment: list[tuple[int, int]]) -> list[Segment]:
    """Split a prompt at its Markdown fences, except those inside comments (``in_comment``, as start and end)."""
    found: list[Segment] = []
    position, language = 0, None
    for fence in _FENCE.finditer(prompt):
        if any(start < fence.start() < end for start, end in in_comment):
            continue
        found.append(_segment(prompt[position : fence.start()], language))
        position, language = fence.end(), fence.group(1).lower() if language is None else None
    found.append(_segment(prompt[position:], language))
    return [one for one in found if one.text.strip()]


def _segment(text: str, language: str | None) -> Segment:
    return Segment(text, language in _OCAML or (language == "" and bool(_CODE_LINE.search(text))))


def as_comment(text: str) -> str:
    """Return prose as an OCaml comment; text of comments only stays as it is."""
    text = text.strip()
    if all(span.kind is Kind.COMMENT or not text[span.start : span.end].strip() for span in spans(text)):
        return text
    return f"(* {text.replace('(*', '( *').replace('*)', '* )')} *)"


def end_of_head(signature: str) -> int | None:
    """Return the position after the ``=`` of a signature, where its body starts; None without ``=``."""
    depth = 0
    for span in spans(signature):
        if span.kind is not Kind.CODE:
            continue
        for position in range(span.start, span.end):
            char = signature[position]
            depth += (char in "([{") - (char in ")]}")
            around = signature[position - 1 : position] + signature[position + 1 : position + 2]
            if char == "=" and depth == 0 and not any(one in _OPERATOR for one in around):
                return position + 1
    return None


def without_placeholder(signature: str) -> tuple[str, str]:
    """Return a signature without a placeholder body, and the comments of that body that describe the task.

    Placeholders are ``let f x = failwith "TODO"``, ``= (* your code here *)``, ``= ...``: the model has to replace them.
    """
    end = end_of_head(signature)
    head, body = (signature, "") if end is None else (signature[:end], signature[end:])
    parts = [(span.kind, body[span.start : span.end]) for span in spans(body)]
    code = "".join(part for kind, part in parts if kind is not Kind.COMMENT).strip()
    comments = [part for kind, part in parts if kind is Kind.COMMENT]
    if code.strip("; \n") and (len(code) > _MAX_PLACEHOLDER_CHARS or not _WHOLE.fullmatch(code)):
        has_parts = len(code) <= _MAX_PLACEHOLDER_CHARS and _AND.search(code)
        return (_BEFORE_AND.sub(r"\1", signature) if has_parts else signature).rstrip(), ""
    notes = [one for one in comments if len(one) > _MAX_INVITATION_CHARS or not _INVITATION.match(one)]
    return head.rstrip(), "\n".join(notes)


def has_body(signature: str) -> bool:
    """Return whether a signature seems to have a complete body, which a completion cannot continue."""
    end = end_of_head(signature)
    body = signature[end:].strip() if end is not None else ""
    return bool(body) and not re.search(
        r"(?:[=|(\[{;,:<>+*/^@&-]|\b(?:function|with|then|else|in|begin|of|and|fun|match|if|when|do|try|rec|let))\Z",
        body,
    )
