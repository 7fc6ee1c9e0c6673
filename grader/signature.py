"""A data set's prompt taken apart: the statement and the signature that the solution starts with.

Pure and lenient: real statements hold unterminated strings inside their comments, no-break spaces, several ``let``s.
"""

import re
from functools import lru_cache

_SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u202f\ufeff"), " ")
_LET_AT_LINE_START = re.compile(r"(?:^|(?<=\*\)))[ \t\u00a0]*(let\b)", re.MULTILINE)
_NAME = re.compile(
    r"let\s+(?:rec\s+)?(?:([a-z_][A-Za-z0-9_']*)|\(\s*([^\s()A-Za-z0-9_]+|mod|land|lor|lxor|lsl|lsr|asr)\s*\))"
)
_COMMENT_EDGE = re.compile(r"\(\*|\*\)")


def split_prompt(prompt: str) -> tuple[str, str]:
    """The statement and the signature of a prompt: the signature is its last ``let`` outside of the comments.

    Raises ValueError where there is none. ``=`` is added to a signature that lacks it.
    """
    start = _signature_start(prompt)
    if start is None:
        raise ValueError("the prompt has no signature: no line after the doc comment starts with `let`")
    signature = prompt[start:].translate(_SPACES).strip()
    if not signature.endswith("=") and "=" not in _without_parentheses(signature):
        signature += " ="
    return prompt[:start].strip("\r\n \t"), signature


def _signature_start(prompt: str) -> int | None:
    # Comments end where their edges say, whatever quotes stand inside: strict OCaml lexing would trip over the prose.
    candidates = [found.start(1) for found in _LET_AT_LINE_START.finditer(prompt)]
    outside = [start for start in candidates if not _inside_comment(prompt, start)]
    return outside[-1] if outside else None


def _comment_edges(text: str) -> list[tuple[int, int]]:
    """The outermost comments of a text, as (start, end); nesting is counted, literals are not respected."""
    comments: list[tuple[int, int]] = []
    depth = start = 0
    for edge in _COMMENT_EDGE.finditer(text):
        if edge.group() == "(*":
            if depth == 0:
                start = edge.start()
            depth += 1
        elif depth > 0:
            depth -= 1
            if depth == 0:
                comments.append((start, edge.end()))
    if depth > 0:
        # A stray "(*" in the prose: the comment ends at its last closing edge, if it has one.
        end = text.rfind("*)", start)
        comments.append((start, end + 2 if end >= 0 else len(text)))
    return comments


def _inside_comment(text: str, position: int) -> bool:
    return any(start < position < end for start, end in _comment_edges(text))


def _without_parentheses(text: str) -> str:
    previous = None
    while previous != text:
        previous, text = text, re.sub(r"\([^()]*\)", "", text)
    return text


def comments(statement: str) -> list[str]:
    """The comments of a statement, the outermost ones."""
    return [statement[start:end] for start, end in _comment_edges(statement)]


@lru_cache(maxsize=1024)
def given_definitions(statement: str) -> str:
    """The OCaml that stands in a statement outside of its comments: type definitions that the solution builds on."""
    kept: list[str] = []
    position = 0
    for start, end in _comment_edges(statement):
        kept.append(statement[position:start])
        position = end
    kept.append(statement[position:])
    return "\n".join(kept).translate(_SPACES).strip()


@lru_cache(maxsize=1024)
def defined_name(signature: str) -> str:
    """The name that a signature binds, ``max`` or ``+++``; empty where it binds none by itself."""
    found = _NAME.match(signature)
    return (found.group(1) or found.group(2)) if found else ""
