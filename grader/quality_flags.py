"""Low-quality flags of a completion, from its text alone. Pure, linear and cheap: computed for every grade.

The flags and their thresholds follow a public GRPO project for OCaml (kirang89/ocamler-grpo): a text is repetitive if under
30% of its 50-character windows differ, it is mostly prose if under half of it is code, more than 4 fence lines are spam, and
a stub is short and only raises or is called a placeholder. Unlike that project, Caravan removes comments and literals first:
a short program that raises for good reason is not a stub, and a program with a doc comment is not prose.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from grader import lexical
from grader.blocks import Block, find_fences
from grader.extract import CandidateProgram, Extraction
from grader.lexical import Kind
from grader.lines import is_prose

WINDOW, STRIDE, MIN_DISTINCT, MIN_REPETITIVE_CHARS = 50, 25, 0.30, 100
MAX_LOOP_SHARE = 0.70  # the same threshold for a loop whose period is longer than the stride
MIN_CODE_SHARE, MIN_PROSE_CHARS = 0.50, 100  # less prose, such as a greeting, never counts
MAX_COMMENT_RATIO = 3.0  # comments count as neither code nor prose, until they are this much longer than the code
MAX_FENCE_LINES = 4
MAX_STUB_LINES = 5
MIN_TRAILING_CHARS = 30

_END = re.compile(r"\(\*\s*END\s*\*\)")
_NOT_PROSE = re.compile(r"\(\*\s*END\s*\*\)|(?:```|~~~)[^\n]*")
_UPPER_LINE = re.compile(r"\n([A-Z#*>\u2022-][^\n]*)")
_PLACEHOLDER = re.compile(
    r"not[ _]?(?:yet[ _])?implemented|unimplemented|your (?:code|solution|implementation)|implement (?:me|this|here)"
    r"|\btodo\b|fill (?:me |this )?in|placeholder|code (?:goes )?here",
    re.IGNORECASE,
)
# An expression that always raises. In the text it is matched against, literals are "" and comments are blank.
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
class TextQuality:
    """Low-quality flags and style measurements of a completion, known before anything is compiled."""

    quality_flags: tuple[str, ...]  # of "repetitive", "mostly_prose", "fence_spam" and "stub", in this order
    num_code_blocks: int  # fenced blocks
    has_trailing_prose: bool
    num_code_lines: int  # of the program, without comments


def text_quality(extraction: Extraction, candidate: CandidateProgram | None, *, name: str) -> TextQuality:
    """Compute the flags of a completion.

    Args:
        extraction: the completion as read by ``extract``.
        candidate: the program that the compiler took; None if the completion holds no code.
        name: the name that the problem asks for.
    """
    text = extraction.answer
    # A thought after the program, or within it, is text of the answer: its tags hide nothing from the flags.
    late = [thought for thought in extraction.thoughts if candidate and thought.at > candidate.start]
    late_text = "\n".join(thought.text for thought in late)
    source = candidate.source if candidate else ""
    code = lexical.without_comments(source)
    num_code_lines = lexical.num_lines(code)
    flags = {
        "repetitive": _is_repetitive(f"{text}\n{late_text}") or _is_repetitive(late_text),
        "mostly_prose": _is_mostly_prose(source, code, _text_around(text, candidate, extraction.blocks) + late_text),
        "fence_spam": len(extraction.fences) + len(find_fences(late_text)) > MAX_FENCE_LINES,
        "stub": num_code_lines <= MAX_STUB_LINES and _is_stub(source, name),
    }
    return TextQuality(
        quality_flags=tuple(flag for flag, is_set in flags.items() if is_set),
        num_code_blocks=len(extraction.blocks),
        has_trailing_prose=_has_trailing_prose(extraction, candidate) or len(late_text.strip()) > MIN_TRAILING_CHARS,
        num_code_lines=num_code_lines,
    )


def _text_around(text: str, candidate: CandidateProgram | None, blocks: Sequence[Block]) -> str:
    """The text around the program, without other fenced blocks, fence lines and END markers."""
    if candidate is None:
        return text
    if not text[: candidate.start].strip() and not text[candidate.end :].strip():
        return ""
    kept, position = [], 0
    for start, end in sorted([(candidate.start, candidate.end), *((block.start, block.end) for block in blocks)]):
        kept.append(text[position:start])
        position = max(position, end)
    return _NOT_PROSE.sub("", "".join([*kept, text[position:]]))


def _num_chars(text: str) -> int:
    return len(text) - text.count(" ") - text.count("\n") - text.count("\t")


def _is_mostly_prose(source: str, code: str, around: str) -> bool:
    inside = sum(_num_chars(line) for line in _UPPER_LINE.findall(f"\n{code}") if is_prose(line))
    num_chars = _num_chars(code)
    num_code, num_comments = num_chars - inside, _num_chars(source) - num_chars
    num_prose = _num_chars(around) + inside + max(0, num_comments - int(MAX_COMMENT_RATIO * num_code))
    return num_prose > MIN_PROSE_CHARS and num_code < MIN_CODE_SHARE * (num_code + num_prose)


def _is_repetitive(text: str) -> bool:
    text = " ".join(text.split())
    if len(text) <= MIN_REPETITIVE_CHARS:
        return False
    starts = range(0, len(text) - WINDOW + 1, STRIDE)
    if len({text[start : start + WINDOW] for start in starts}) < MIN_DISTINCT * len(starts):
        return True
    # A loop longer than a window's stride: find the previous occurrence of the text's end, and measure how long they agree.
    last = len(text) - WINDOW
    earlier = text.rfind(text[last:], 0, len(text) - 1)
    return earlier >= 0 and _num_repeated(text, last - earlier) > MAX_LOOP_SHARE * len(text)


def _num_repeated(text: str, period: int) -> int:
    """Number of characters at the end of a text that equal those one period earlier."""
    low, high = 0, len(text) - period
    while low < high:
        middle = (low + high + 1) // 2
        if text[len(text) - middle :] == text[len(text) - middle - period : len(text) - period]:
            low = middle
        else:
            high = middle - 1
    return low


def _has_trailing_prose(extraction: Extraction, candidate: CandidateProgram | None) -> bool:
    text = extraction.answer
    if extraction.fences:
        last = extraction.fences[-1]
        return not last.language and len(_END.sub("", text[last.end :]).strip()) > MIN_TRAILING_CHARS
    return candidate is not None and bool(_END.sub("", text[candidate.end :]).strip())


def _is_stub(source: str, name: str) -> bool:
    """Return whether the definition of the name only raises, or does nothing and the text calls it a placeholder."""
    masked = []
    for span in lexical.spans(source):
        part = source[span.start : span.end]
        masked.append(part if span.kind is Kind.CODE else " " if span.kind is Kind.COMMENT else '""')
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
    return _NOTHING_DONE.match(body) is not None and _PLACEHOLDER.search(source) is not None


def _body(code: str, name: str) -> str | None:
    """Right-hand side of the last definition of the name, up to the next top-level item."""
    definitions = list(re.finditer(_LET_NAME.format(name=re.escape(name)), code))
    depth = 0
    for found in _BRACKETS_AND_EQUALS.finditer(code, definitions[-1].end() if definitions else len(code)):
        if found.group() == "=" and depth == 0:
            end = _NEXT_ITEM.search(code, found.end())
            return code[found.end() : end.start() if end else len(code)]
        depth += found.group() in "([{" or -(found.group() in ")]}")
    return None
