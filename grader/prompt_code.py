"""Removal of Markdown and placeholder bodies from a data set's prompt. Pure."""

import re
from typing import NamedTuple

from grader.lexical import Kind, spans

_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*([\w+-]*)[^\n`]*$\n?", re.MULTILINE)
_OCAML = ("ocaml", "ml", "mli", "caml")
_CODE_LINE = re.compile(r"^[ \t]*(?:let|type|module|exception|open|external|\(\*)(?![\w'])", re.MULTILINE)
_OPERATOR = "!$%&*+-./:<=>?@^|~"

_STRING_LITERAL = r'(?:"(?:[^"\\]|\\.)*"|\{\w*\|.*?\|\w*\})'
_RAISING_EXPRESSION = (
    rf"(?:failwith|invalid_arg)\s*(?:@@\s*)?(?:{_STRING_LITERAL}|\(\s*{_STRING_LITERAL}\s*\))"
    rf"|raise\s*(?:@@\s*)?(?:\((?:[^()\"]|{_STRING_LITERAL})*\)|[A-Z][\w.']*(?:\s*{_STRING_LITERAL})?)"
    r"|assert\s*\(?\s*false\s*\)?"
    r"|(?:todo|not_implemented|unimplemented)\s*(?:\(\)|!)?"
    r"|Obj\.magic\s+\S+|exit\s+\d+"
)
_FILLER = (
    r"\.{2,}|\u2026|\?+|_+|<[^<>\n]*>|\[\s*(?:your|insert|todo|fill|code)\b[^\]\n]*\]"
    r"|(?:#|//|--)[^\n]*(?:\n\s*(?:#|//|--)[^\n]*)*"
    r'|"[^"]*\b(?:code|implement\w*|todo|solution)\b[^"]*"'
    r"|(?:TODO|FIXME)\b[^\n]*|(?:pass|your[ _]code(?:[ _]here)?|(?:write|add|insert|put) your (?:code|solution)(?: here)?)[.:!]*"
)
_DEFAULT_VALUE = r"\(\s*\)|0\.?0*|\[\s*\]|\[\|\s*\|\]|\"\"|None|true|false"
_IGNORED_ARGUMENTS = r"(?:(?:ignore\s+[^;\n]+;|let\s+_\w*\s*=[^\n]*?\bin\b)\s*)*+"
_LET_PLACEHOLDER = rf"let\s+[\w']+(?:\s*:[^=]*)?\s*=\s*(?:{_RAISING_EXPRESSION}|{_FILLER})\s*in\b.*"
_PLACEHOLDER_EXPRESSION = (
    rf"{_LET_PLACEHOLDER}"
    rf"|{_IGNORED_ARGUMENTS}(?:fun(?:ction)?\s+[\w'()\s,:~?]*->\s*)?(?:{_RAISING_EXPRESSION}|{_FILLER}|{_DEFAULT_VALUE})"
)
_PLACEHOLDER_BODY = (
    rf"(?:{_PLACEHOLDER_EXPRESSION}|\(\s*(?:{_PLACEHOLDER_EXPRESSION})\s*\)|begin\s+(?:{_PLACEHOLDER_EXPRESSION})\s+end)"
    r"\s*(?:;;)?\s*"
)
_PLACEHOLDER_BODY_RE = re.compile(_PLACEHOLDER_BODY, re.IGNORECASE | re.DOTALL)
_PLACEHOLDER_BEFORE_AND = re.compile(rf"(=\s*)(?:{_PLACEHOLDER_BODY})(?=\n\s*and\b|\Z)", re.IGNORECASE | re.DOTALL)
_AND = re.compile(r"\n\s*and\b")
_MAX_PLACEHOLDER_CHARS = 500
_CODE_HERE_COMMENT = re.compile(
    r"\(\*+[^a-z]*(?:your|write|fill|add|insert|put|replace|implement|complete|begin|end|todo|fixme|body|code|solution|\*\))",
    re.IGNORECASE,
)
_MAX_CODE_HERE_CHARS = 100  # a longer comment is kept as part of the task


class Segment(NamedTuple):
    """Part of a prompt, split at its Markdown fences."""

    text: str
    is_code: bool  # inside a fence that may hold OCaml


def segments(prompt: str, comment_ranges: list[tuple[int, int]]) -> list[Segment]:
    """Split a prompt at its Markdown fences, except those inside comments (``comment_ranges``, of start and end)."""
    found: list[Segment] = []
    position, language = 0, None
    for fence in _FENCE.finditer(prompt):
        if any(start < fence.start() < end for start, end in comment_ranges):
            continue
        found.append(_segment(prompt[position : fence.start()], language))
        position, language = fence.end(), fence.group(1).lower() if language is None else None
    found.append(_segment(prompt[position:], language))
    return [segment for segment in found if segment.text.strip()]


def _segment(text: str, language: str | None) -> Segment:
    return Segment(text, language in _OCAML or (language == "" and bool(_CODE_LINE.search(text))))


def as_comment(text: str) -> str:
    """Return prose as an OCaml comment. A text that consists of comments is returned unchanged."""
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
            neighbours = signature[position - 1 : position] + signature[position + 1 : position + 2]
            if char == "=" and depth == 0 and not any(neighbour in _OPERATOR for neighbour in neighbours):
                return position + 1
    return None


def without_placeholder(signature: str) -> tuple[str, str]:
    """Remove a placeholder body from a signature; return the signature and the body's comments that describe the task.

    Examples of placeholders: ``let f x = failwith "TODO"``, ``= (* your code here *)``, ``= ...``.
    """
    end = end_of_head(signature)
    head, body = (signature, "") if end is None else (signature[:end], signature[end:])
    parts = [(span.kind, body[span.start : span.end]) for span in spans(body)]
    code = "".join(part for kind, part in parts if kind is not Kind.COMMENT).strip()
    comments = [part for kind, part in parts if kind is Kind.COMMENT]
    if code.strip("; \n") and (len(code) > _MAX_PLACEHOLDER_CHARS or not _PLACEHOLDER_BODY_RE.fullmatch(code)):
        has_and = len(code) <= _MAX_PLACEHOLDER_CHARS and _AND.search(code)
        return (_PLACEHOLDER_BEFORE_AND.sub(r"\1", signature) if has_and else signature).rstrip(), ""
    task_comments = [
        comment for comment in comments if len(comment) > _MAX_CODE_HERE_CHARS or not _CODE_HERE_COMMENT.match(comment)
    ]
    return head.rstrip(), "\n".join(task_comments)


def has_body(signature: str) -> bool:
    """Return True if a signature seems to have a complete body, which a completion cannot continue."""
    end = end_of_head(signature)
    body = signature[end:].strip() if end is not None else ""
    return bool(body) and not re.search(
        r"(?:[=|(\[{;,:<>+*/^@&-]|\b(?:function|with|then|else|in|begin|of|and|fun|match|if|when|do|try|rec|let))\Z",
        body,
    )
