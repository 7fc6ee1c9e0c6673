"""Signs that a completion is no answer, read from its text alone. Pure; linear, and cheap: once per grading.

The signs and the thresholds start from a public GRPO project for OCaml (kirang89/ocamler-grpo): a text repeats itself
where under 30% of its 50-character windows differ, it is prose where under half of it is code, more than 4 fence lines
are too many, and a stub is short and says so. Here they are judged on the code without its comments and literals, so that
a short program that raises for good reason is no stub, and a program with a doc comment is no prose.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from grader import lexical
from grader.answer import answer
from grader.blocks import Block, fenced, fences
from grader.extract import Reading, without_statement
from grader.lexical import Kind
from grader.prose import is_prose

WINDOW, STRIDE, MIN_DISTINCT, MIN_REPETITIVE_CHARS = 50, 25, 0.30, 100
MAX_LOOP_SHARE = 0.70  # the same threshold for a loop whose period is longer than the stride
MIN_CODE_SHARE, MIN_PROSE_CHARS = 0.50, 100  # a greeting before a one-line answer is no prose
MAX_COMMENT_RATIO = 3.0  # comments count as neither code nor prose, until they are this much longer than the code
MAX_FENCE_LINES = 4
MAX_STUB_LINES = 5
MIN_TRAILING_CHARS = 30

_END = re.compile(r"\(\*\s*END\s*\*\)")
_NO_PROSE = re.compile(r"\(\*\s*END\s*\*\)|(?:```|~~~)[^\n]*")
_UPPER_LINE = re.compile(r"\n([A-Z#*>\u2022-][^\n]*)")
_PLACEHOLDER = re.compile(
    r"not[ _]?(?:yet[ _])?implemented|unimplemented|your (?:code|solution|implementation)|implement (?:me|this|here)"
    r"|\btodo\b|fill (?:me |this )?in|placeholder|code (?:goes )?here",
    re.IGNORECASE,
)
# What raises whatever it is given: literals are "" here, comments are gone.
_RAISES = (
    r"(?:(?:Stdlib\.)?(?:failwith|invalid_arg)\s*(?:\(\s*\"\"\s*\)|\"\")|assert\s+false|assert\s*\(\s*false\s*\)"
    r"|(?:Stdlib\.)?(?:raise|raise_notrace)\s*\(?\s*[A-Z][A-Za-z0-9_'.]*+\s*(?:\"\"|\(\s*\"\"\s*\))?\s*\)?)"
)
_RAISES_ONLY = re.compile(rf"[\s(]*(?:begin\s+)?{_RAISES}[\s)]*(?:end\s*)?(?:\|[^|]*)?;*\s*\Z")
_NOTHING_DONE = re.compile(r"\s*(?:\(\s*\)|\[\s*\]|[A-Za-z_0-9.']+|\"\"|\[\|\s*\|\])?\s*;*\s*\Z")
_IGNORED = re.compile(r"\s*(?:ignore\b[^;]*;|let\s+_\w*\s*=[^;]*?\bin\b)")
_BRANCH = re.compile(r"->|\bthen\b|\belse\b")
_BRANCH_OF_TRY = re.compile(r"->|\bthen\b|\belse\b|\bwith\b")
_NEXT_ITEM = re.compile(r"\n(?:let|and|type|module|exception|open|include)\b|;;")
_BRACKETS_AND_EQUALS = re.compile(r"[()\[\]{}]|(?<![<>:=!&|+*/^@$%-])=(?![=<>&|+*/^@$%!-])")
_LET_NAME = r"(?:^|[\n;])[ \t]*(?:let|and)\s+(?:rec\s+)?(?:{name}|\(\s*{name}\s*\))(?![A-Za-z0-9_'])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What a completion's text tells before anything is compiled."""

    quality_flags: tuple[str, ...]  # "repetitive", "mostly_prose", "fence_spam", "stub", in this order
    num_code_blocks: int  # fenced blocks
    has_trailing_prose: bool
    num_code_lines: int  # of the program, comments not counted


def signals(
    text: str, reading: Reading | None, *, name: str, statement: str, special_tokens: tuple[str, ...] = ()
) -> Signals:
    """Look at a completion.

    Args:
        text: the completion as sampled.
        reading: the program that it was taken for; None where there is no code in it.
        name: the name that the problem asks for.
        statement: the problem's statement; a copy of its comments counts neither as code nor as prose.
        special_tokens: as for the extraction.
    """
    text = without_statement(answer(text, special_tokens).text, statement)
    program = reading.program if reading else ""
    code = lexical.without_comments(program)
    num_code_lines = lexical.num_lines(code)
    num_fences = len(fences(text))
    blocks = fenced(text) if num_fences else []
    outside = _outside(text, reading, blocks)
    found = {
        "repetitive": _is_repetitive(text),
        "mostly_prose": _is_mostly_prose(program, code, outside),
        "fence_spam": num_fences > MAX_FENCE_LINES,
        "stub": num_code_lines <= MAX_STUB_LINES and _is_stub(program, name),
    }
    return Signals(
        quality_flags=tuple(sign for sign, is_there in found.items() if is_there),
        num_code_blocks=len(blocks),
        has_trailing_prose=_has_trailing_prose(text, reading, is_fenced=num_fences > 0),
        num_code_lines=num_code_lines,
    )


def _outside(text: str, reading: Reading | None, blocks: Sequence[Block]) -> str:
    """What stands around the program: without other fenced blocks, fence lines and END markers."""
    if reading is None:
        return text
    if not text[: reading.start].strip() and not text[reading.end :].strip():
        return ""
    kept, position = [], 0
    for start, end in sorted([(reading.start, reading.end), *((block.start, block.end) for block in blocks)]):
        kept.append(text[position:start])
        position = max(position, end)
    return _NO_PROSE.sub("", "".join([*kept, text[position:]]))


def _num_chars(text: str) -> int:
    return len(text) - text.count(" ") - text.count("\n") - text.count("\t")


def _is_mostly_prose(program: str, code: str, outside: str) -> bool:
    inside = sum(_num_chars(line) for line in _UPPER_LINE.findall(f"\n{code}") if is_prose(line))
    num_chars = _num_chars(code)
    num_code, num_comments = num_chars - inside, _num_chars(program) - num_chars
    num_prose = _num_chars(outside) + inside + max(0, num_comments - int(MAX_COMMENT_RATIO * num_code))
    return num_prose > MIN_PROSE_CHARS and num_code < MIN_CODE_SHARE * (num_code + num_prose)


def _is_repetitive(text: str) -> bool:
    text = " ".join(text.split())
    if len(text) <= MIN_REPETITIVE_CHARS:
        return False
    starts = range(0, len(text) - WINDOW + 1, STRIDE)
    if len({text[start : start + WINDOW] for start in starts}) < MIN_DISTINCT * len(starts):
        return True
    # A loop into which the windows fall differently each time: how far back does the text repeat its own end?
    last = len(text) - WINDOW
    earlier = text.rfind(text[last:], 0, len(text) - 1)
    return earlier >= 0 and _num_repeated(text, last - earlier) > MAX_LOOP_SHARE * len(text)


def _num_repeated(text: str, period: int) -> int:
    """How many characters at the end are the same as those one period before."""
    low, high = 0, len(text) - period
    while low < high:
        middle = (low + high + 1) // 2
        if text[len(text) - middle :] == text[len(text) - middle - period : len(text) - period]:
            low = middle
        else:
            high = middle - 1
    return low


def _has_trailing_prose(text: str, reading: Reading | None, *, is_fenced: bool) -> bool:
    if is_fenced:
        last = fences(text)[-1]
        return not last.tag and len(_END.sub("", text[last.end :]).strip()) > MIN_TRAILING_CHARS
    return reading is not None and bool(_END.sub("", text[reading.end :]).strip())


def _is_stub(program: str, name: str) -> bool:
    """Whether the definition that the problem asks for does nothing but raise, or nothing at all and says so."""
    masked = []
    for span in lexical.spans(program):
        stretch = program[span.start : span.end]
        masked.append(stretch if span.kind is Kind.CODE else " " if span.kind is Kind.COMMENT else '""')
    body = _body("".join(masked), name)
    if body is None:
        return False
    ignored = _IGNORED.match(body)
    while ignored:
        body = body[ignored.end() :]
        ignored = _IGNORED.match(body)
    first, *branches = (_BRANCH_OF_TRY if "try" in body else _BRANCH).split(body)
    if all(_RAISES_ONLY.match(branch) for branch in branches or [first]):
        return True
    return _NOTHING_DONE.match(body) is not None and _PLACEHOLDER.search(program) is not None


def _body(code: str, name: str) -> str | None:
    """What the last definition of the name binds it to."""
    definitions = list(re.finditer(_LET_NAME.format(name=re.escape(name)), code))
    depth = 0
    for found in _BRACKETS_AND_EQUALS.finditer(code, definitions[-1].end() if definitions else len(code)):
        if found.group() == "=" and depth == 0:
            end = _NEXT_ITEM.search(code, found.end())
            return code[found.end() : end.start() if end else len(code)]
        depth += found.group() in "([{" or -(found.group() in ")]}")
    return None
