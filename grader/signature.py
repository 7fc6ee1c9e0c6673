"""A data set's prompt taken apart: the statement and the signature that the solution starts with.

Pure and lenient: real statements hold unterminated strings inside their comments, no-break spaces, several ``let``s.
"""

import re
from functools import lru_cache

from grader.prompt_code import Segment, as_comment, segments, without_placeholder

_SPACES = {
    **dict.fromkeys(map(ord, "\u00a0\u2007\u202f\u200b\ufeff"), " "),
    **dict.fromkeys(map(ord, "\u0085\u2028\u2029"), "\n"),
}
_LET_AT_LINE_START = re.compile(r"(?:^|(?<=\*\)))([ \t\u00a0]*)(let\b)", re.MULTILINE)
_NAME = re.compile(
    r"let\s+(?:rec\s+)?(?:([a-z_][A-Za-z0-9_']*)|\(\s*([^\s()A-Za-z0-9_]+|mod|land|lor|lxor|lsl|lsr|asr)\s*\))"
)
_COMMENT_EDGE = re.compile(r"\(\*|\*\)")
_IN = re.compile(r"(?<![\w'])in(?![\w'])")


def split_prompt(prompt: str) -> tuple[str, str]:
    """The statement and the signature of a prompt: the signature is its last ``let`` outside of the comments.

    Markdown fences are unwrapped, and what stands around them becomes comments; a body that only holds its place is left out.
    Raises ValueError where there is no signature. ``=`` is added to one that lacks it.
    """
    prompt = _with_plain_spaces(prompt)
    edges = _comment_edges(prompt)
    parts = segments(prompt, edges) if "```" in prompt or "~~~" in prompt else []
    if len(parts) > 1 or any(part.is_code for part in parts):
        prompt = _unwrapped(parts)
        edges = _comment_edges(prompt)
    start = _signature_start(prompt, edges)
    if start is None:
        raise ValueError("the prompt has no signature: no line after the doc comment starts with `let`")
    signature, said = without_placeholder(prompt[start:].rstrip("`~ \r\n\t").translate(_SPACES))
    if not signature.endswith("=") and "=" not in _without_parentheses(signature):
        signature += " ="
    statement = prompt[:start].strip("\r\n \t")
    return "\n".join(part for part in (statement, said) if part), signature


def _with_plain_spaces(prompt: str) -> str:
    """The prompt with newlines for what else ends a line: everywhere for Windows' ends, outside of the comments for Unicode's."""
    prompt = prompt.replace("\r\n", "\n").replace("\r", "\n")
    if prompt.isascii():
        return prompt
    kept, position = [], 0
    for start, end in _comment_edges(prompt):
        kept += [prompt[position:start].translate(_SPACES), prompt[start:end]]
        position = end
    return "".join([*kept, prompt[position:].translate(_SPACES)])


def _unwrapped(parts: list[Segment]) -> str:
    """The OCaml of a prompt with Markdown fences, with the part that holds the signature at its end."""
    starts = {number: _signature_start(part.text, _comment_edges(part.text)) for number, part in enumerate(parts)}
    holding = [number for number, start in starts.items() if start is not None]
    if not holding:
        return "\n".join(part.text for part in parts)
    # An example of its use may follow: the signature is the one that has no body yet.
    waiting = [
        number for number in holding if without_placeholder(parts[number].text[starts[number] :])[0].endswith("=")
    ]
    chosen = (waiting or holding)[-1]
    before = [part.text.strip() if part.is_code else as_comment(part.text) for part in parts[:chosen]]
    after = [as_comment(part.text) for part in parts[chosen + 1 :]]
    return "\n".join([*before, *after, parts[chosen].text])


def _signature_start(prompt: str, edges: list[tuple[int, int]]) -> int | None:
    # Comments end where their edges say, whatever quotes stand inside: strict OCaml lexing would trip over the prose.
    found = [one for one in _LET_AT_LINE_START.finditer(prompt) if not _is_inside(edges, one.start(2))]
    while len(found) > 1 and _is_local(prompt, *found[-2:]):
        found.pop()
    return found[-1].start(2) if found else None


def _is_local(prompt: str, outer: re.Match[str], inner: re.Match[str]) -> bool:
    """Return whether a ``let`` belongs to the body of the one before it."""
    if len(inner.group(1)) <= len(outer.group(1)):
        return False
    return prompt[: inner.start()].rstrip().endswith("=") or bool(_IN.search(prompt, inner.end()))


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


def _is_inside(comments: list[tuple[int, int]], position: int) -> bool:
    return any(start < position < end for start, end in comments)


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
