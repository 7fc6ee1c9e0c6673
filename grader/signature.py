"""A prompt split into the statement and the signature that the solution starts with.

Pure and lenient: real statements hold unterminated strings inside their comments, no-break spaces and several ``let``s.
"""

import re

from grader.fields import IncompleteRow
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
    """Split a prompt into statement and signature; the signature is the last ``let`` outside comments.

    Markdown fences are unwrapped, and the text around them becomes comments. A placeholder body is removed, and a missing ``=``
    is added. Raises IncompleteRow if there is no signature.
    """
    prompt = _with_plain_spaces(prompt)
    ranges = _comment_ranges(prompt)
    parts = segments(prompt, ranges) if "```" in prompt or "~~~" in prompt else []
    if len(parts) > 1 or any(part.is_code for part in parts):
        prompt = _unwrapped(parts)
        ranges = _comment_ranges(prompt)
    start = _signature_start(prompt, ranges)
    if start is None:
        raise IncompleteRow(
            "the prompt has no signature: no line after the doc comment starts with `let`", code="no_signature"
        )
    signature, notes = without_placeholder(prompt[start:].rstrip("`~ \r\n\t").translate(_SPACES))
    if not signature.endswith("=") and "=" not in _without_parentheses(signature):
        signature += " ="
    statement = prompt[:start].strip("\r\n \t")
    return "\n".join(part for part in (statement, notes) if part), signature


def _with_plain_spaces(prompt: str) -> str:
    """Normalise line ends and spaces: Windows line ends everywhere, Unicode spaces and line ends outside comments."""
    prompt = prompt.replace("\r\n", "\n").replace("\r", "\n")
    if prompt.isascii():
        return prompt
    kept, position = [], 0
    for start, end in _comment_ranges(prompt):
        kept += [prompt[position:start].translate(_SPACES), prompt[start:end]]
        position = end
    return "".join([*kept, prompt[position:].translate(_SPACES)])


def _unwrapped(parts: list[Segment]) -> str:
    """The OCaml of a prompt with Markdown fences, the part with the signature last."""
    starts = {number: _signature_start(part.text, _comment_ranges(part.text)) for number, part in enumerate(parts)}
    with_signature = [number for number, start in starts.items() if start is not None]
    if not with_signature:
        return "\n".join(part.text for part in parts)
    # A usage example may follow: the signature is the one without a body.
    without_body = [
        number
        for number in with_signature
        if without_placeholder(parts[number].text[starts[number] :])[0].endswith("=")
    ]
    chosen = (without_body or with_signature)[-1]
    before = [part.text.strip() if part.is_code else as_comment(part.text) for part in parts[:chosen]]
    after = [as_comment(part.text) for part in parts[chosen + 1 :]]
    return "\n".join([*before, *after, parts[chosen].text])


def _signature_start(prompt: str, ranges: list[tuple[int, int]]) -> int | None:
    # Quotes inside comments are ignored: strict OCaml lexing would fail on prose.
    found = [match for match in _LET_AT_LINE_START.finditer(prompt) if not _is_inside(ranges, match.start(2))]
    while len(found) > 1 and _is_local(prompt, *found[-2:]):
        found.pop()
    return found[-1].start(2) if found else None


def _is_local(prompt: str, outer: re.Match[str], inner: re.Match[str]) -> bool:
    """Return whether a ``let`` belongs to the body of the one before it."""
    if len(inner.group(1)) <= len(outer.group(1)):
        return False
    return prompt[: inner.start()].rstrip().endswith("=") or bool(_IN.search(prompt, inner.end()))


def _comment_ranges(text: str) -> list[tuple[int, int]]:
    """Outermost comments of a text as (start, end); comments nest, and literals are ignored."""
    ranges: list[tuple[int, int]] = []
    depth = start = 0
    for edge in _COMMENT_EDGE.finditer(text):
        if edge.group() == "(*":
            if depth == 0:
                start = edge.start()
            depth += 1
        elif depth > 0:
            depth -= 1
            if depth == 0:
                ranges.append((start, edge.end()))
    if depth > 0:
        # A stray "(*" in the prose: the comment ends at the last "*)" after it, if there is one.
        end = text.rfind("*)", start)
        ranges.append((start, end + 2 if end >= 0 else len(text)))
    return ranges


def _is_inside(ranges: list[tuple[int, int]], position: int) -> bool:
    return any(start < position < end for start, end in ranges)


def _without_parentheses(text: str) -> str:
    previous = None
    while previous != text:
        previous, text = text, re.sub(r"\([^()]*\)", "", text)
    return text


def comments(statement: str) -> list[str]:
    """Outermost comments of a statement."""
    return [statement[start:end] for start, end in _comment_ranges(statement)]


def given_definitions(statement: str) -> str:
    """OCaml of a statement outside its comments, such as type definitions that the solution uses."""
    kept: list[str] = []
    position = 0
    for start, end in _comment_ranges(statement):
        kept.append(statement[position:start])
        position = end
    kept.append(statement[position:])
    return "\n".join(kept).translate(_SPACES).strip()


def defined_name(signature: str) -> str:
    """Name that a signature binds, such as ``max`` or ``+++``; empty if it binds none."""
    found = _NAME.match(signature)
    return (found.group(1) or found.group(2)) if found else ""
