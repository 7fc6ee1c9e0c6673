"""A completion's text -> the OCaml programs that it may be read as. Pure.

Models answer with code, with code in Markdown fences, with prose around it, or with only the body that continues the
signature. Which reading is meant is not guessed from the looks of it: this module lists the readings, best first, and
the front end takes the first that parses and binds the problem's name (``grader/ocaml/front.ml``).

No time limit stands around this module: whatever it does to a text takes time and memory linear in its length.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from grader import lexical
from grader.answer import answer
from grader.blocks import Block, begins_with_code, choose, definition_depth
from grader.lexical import Kind, Span
from grader.prose import blank, end_of_leading_prose, first_starter, start_of_trailing_prose, without_transcript
from grader.signature import comments

_WORD = re.compile(r"\w+")
_COPIED = 0.7  # the share of a comment's words that a copy has
_SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u202f\u200b\ufeff"), " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One way to read a completion as a program."""

    program: str
    has_signature: bool  # the problem's signature was put in front
    first_line: int = 1  # line L of the program is line first_line + L - 1 of the text; below 1: the signature
    start: int = 0  # where its code begins in the answer (grader.prose.answer)
    end: int = 0  # and where it ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """What a completion may mean, best first; no readings where there is no code in it."""

    readings: tuple[Reading, ...]
    has_end_marker: bool
    together: Reading | None = None  # with the earlier blocks of code in front, for an answer that is given in parts
    quoted: Reading | None = None  # the whole text, for where it parses: what was left out of it stands in its literals
    why_none: str = ""  # what the completion holds instead, where there are no readings
    code: str = ""  # the part of the answer that the readings are of
    language: str = ""  # that its fence names, in lower case


def extract(
    text: str, *, signature: str, name: str, statement: str, special_tokens: tuple[str, ...] = ()
) -> Extraction:
    """Read a completion.

    Args:
        text: the completion as sampled, behind the tag of a thought that its prompt left open.
        signature: what the problem's solution starts with, ``let f (x : int) : int =``.
        name: the name that the signature binds.
        statement: the problem's statement, so that a completion that repeats it can be told from one that answers it.
        special_tokens: the tokenizer's, which may stand in the text as characters.
    """
    found = answer(text, special_tokens)
    text = found.text
    quoted = None
    if found.quoted:
        quoted = Reading(program=found.quoted, has_signature=False, start=0, end=len(text))
    chosen = choose(text, name)
    start, after = chosen.block.start, chosen.block.after
    code = text[start : chosen.block.end]
    code = without_transcript(without_statement(code, statement))
    defines = definition_depth(code, Block(tag="", start=0, end=len(code), after=len(code)), name) is not None
    leading = end_of_leading_prose(code, defines=defines)
    stretches = lexical.spans(code[leading:])
    end = lexical.end_marker(code[leading:], stretches)
    found_end = end is not None or lexical.has_end_marker(text[after:])
    end = len(code) if end is None else leading + end
    if not _has_code(code[leading:end], stretches):
        return Extraction(readings=(), has_end_marker=found_end, quoted=quoted, why_none=found.instead)
    code = _plain_spaces(code, leading, end, stretches)
    trailing = leading + start_of_trailing_prose(code[leading:end], stretches)
    if not _has_code(code[leading:trailing], stretches):
        trailing = end
    found_end = found_end or (trailing < end and lexical.has_end_marker(code[trailing:end]))
    cuts = list(dict.fromkeys([(leading, trailing), (leading, end), (0, end)]))
    bodies = [_reading(text, code, start, cut, signature) for cut in cuts[:1]]
    programs = [_reading(text, code, start, cut, None) for cut in cuts]
    # If nothing parses, the first reading is the one whose syntax error is reported.
    readings = programs + bodies if defines else bodies + programs
    if chosen.is_marked and begins_with_code(text):
        # The marks may stand in literals of a program. If so, and only then, the whole text parses.
        readings.append(_reading(text, text, 0, (0, lexical.end_marker(text) or len(text)), None))
    together = _together(text, code[:trailing], chosen.earlier, chosen.block)
    return Extraction(
        readings=tuple(readings),
        has_end_marker=found_end,
        together=together,
        quoted=quoted,
        code=text[start : chosen.block.end],
        language=chosen.block.tag,
    )


def _reading(text: str, code: str, start: int, cut: tuple[int, int], signature: str | None) -> Reading:
    """Args: text: the answer; code: what was chosen of it, from ``start``; cut: the part of that to read."""
    program = code[cut[0] : cut[1]]
    line = text.count("\n", 0, start + cut[0]) + 1
    if signature is not None:
        program, line = f"{signature}\n{program}", line - signature.count("\n") - 1
    return Reading(
        program=program,
        has_signature=signature is not None,
        first_line=line,
        start=start + cut[0],
        end=start + cut[1],
    )


def _together(text: str, code: str, earlier: Sequence[Block], block: Block) -> Reading | None:
    """The blocks as one program, each on the lines of the text where it stands."""
    if not earlier:
        return None
    parts, position = [], 0
    for part in earlier:
        parts += [blank(text[position : part.start]), text[part.start : part.end].translate(_SPACES)]
        position = part.end
    program = "".join([*parts, blank(text[position : block.start]), code])
    end = block.start + len(code)
    return Reading(program=program, has_signature=False, first_line=1, start=earlier[0].start, end=end)


def _has_code(code: str, stretches: Sequence[Span]) -> bool:
    """Whether anything but comments stands in the code; ``stretches``: its spans, maybe longer than it.

    A comment that never ends and takes definitions with it is no comment, but an error that OCaml has to name.
    """
    for span in stretches:
        if span.start >= len(code):
            return False
        if not span.closed and first_starter(code, span.start + 2, len(code)) is not None:
            return True
        if span.kind is Kind.STRING or (span.kind is Kind.CODE and code[span.start : span.end].strip()):
            return True
    return False


@lru_cache(maxsize=4096)
def _doc_comments(statement: str) -> tuple[str, ...]:
    return tuple(comment for comment in comments(statement) if "\n" in comment or ">>>" in comment or len(comment) > 30)


def without_statement(code: str, statement: str) -> str:
    """Blank a copy of the statement's comments: the data's text, which may not even lex (a lone quote in prose)."""
    for comment in _doc_comments(statement):
        found = code.find(comment)
        if found >= 0:
            code = code[:found] + blank(comment) + code[found + len(comment) :]
    start = len(code) - len(code.lstrip())
    if not code.startswith("(*", start) or lexical.end_marker(code[start : start + 40]) == 0:
        return code
    # It may have been copied with small changes. A comment of the completion's own is OCaml's to read, or to refuse.
    end = lexical.readable_comment_end(code[start:])
    if end is None or not _repeats(code[start : start + end], statement):
        return code
    return code[:start] + blank(code[start : start + end]) + code[start + end :]


def _repeats(comment: str, statement: str) -> bool:
    """Whether a comment that OCaml refuses is a copy of one of the statement's that it refuses as well."""
    words = Counter(_WORD.findall(comment.lower()))
    for original in comments(statement):
        first = lexical.spans(original)[0]
        if not (first.closed and first.end == len(original)):
            shared = (Counter(_WORD.findall(original.lower())) & words).total()
            if shared >= max(2, _COPIED * words.total()):
                return True
    return False


def _plain_spaces(code: str, start: int, end: int, stretches: Sequence[Span]) -> str:
    """No-break spaces outside of literals become spaces. ``stretches``: the spans from ``start`` on."""
    if code.isascii():
        return code
    parts = [code[:start].translate(_SPACES)]
    for span in stretches:
        part = code[start + span.start : min(end, start + span.end)]
        parts.append(part if span.kind is Kind.STRING else part.translate(_SPACES))
        if start + span.end >= end:
            break
    return "".join(parts)
