"""A completion's text -> the answer in it, its code blocks, and its candidate programs. Pure.

Models answer with code, with code in Markdown fences, with prose around it, or with only the body that continues the
signature. The extraction does not guess which of them is meant: it lists candidate programs, best first, and the front end
takes the first that parses and binds the problem's name (``grader/ocaml/front.ml``).

This module runs without a time limit, so its time and memory must be linear in the length of any text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from grader import lexical
from grader.answer import find_answer
from grader.blocks import Block, Fence, choose_block, definition_depth, fenced_blocks, find_fences
from grader.chat_tokens import KNOWN_TOKENS, TokenPatterns
from grader.lexical import Kind, Span
from grader.lines import begins_with_code, blank, first_code_line
from grader.prose import end_of_leading_prose, start_of_trailing_prose, without_statement, without_transcript
from grader.signature import comments
from grader.thoughts import Thought

_SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u202f\u200b\ufeff"), " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateProgram:
    """A program that a completion may be read as."""

    source: str
    has_signature: bool  # the problem's signature was put in front
    first_line: int = 1  # line L of the source is line first_line + L - 1 of the completion; below 1: the signature
    start: int = 0  # its code is answer[start:end]
    end: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """Properties of a completion's text that later stages need."""

    answer: str  # without thoughts, special tokens and copies of the statement's comments
    fences: tuple[Fence, ...]  # of the answer
    blocks: tuple[Block, ...]  # fenced ones, of the answer
    thoughts: tuple[Thought, ...]  # and other text that was dropped before the answer or within it
    candidates: tuple[CandidateProgram, ...] = ()  # best first; empty: the answer holds no code
    no_code_reason: str = ""  # content of a completion without code; empty: nothing special
    verbatim: CandidateProgram | None = None  # the whole completion, compiled first: its tokens may be literals
    joined: CandidateProgram | None = None  # with the earlier blocks in front, for an answer in several parts
    has_end_marker: bool = False
    code: str = ""  # the part of the answer that the candidates are made of
    language: str = ""  # named by the fence around this part, in lower case


def extract(
    text: str,
    *,
    signature: str,
    name: str,
    statement: str,
    tokens: TokenPatterns = KNOWN_TOKENS,
    max_chars: int | None = None,
) -> Extraction:
    """Extract the answer of a completion and list its candidate programs.

    Args:
        text: the completion as sampled, after ``with_opened_thought``.
        signature: start of the problem's solution, ``let f (x : int) : int =``.
        name: the name that the signature binds.
        statement: the problem's statement; a completion may repeat it.
        tokens: token patterns of the tokenizer that sampled the text.
        max_chars: a longer text is cut there and yields one candidate, which does not parse.
    """
    is_too_long = max_chars is not None and len(text) > max_chars
    text = text[:max_chars]
    found = find_answer(text, tokens)
    statement_comments = comments(statement)
    answer = without_statement(found.text, statement_comments)
    fences = find_fences(answer)
    blocks = tuple(fenced_blocks(answer, fences))
    extraction = Extraction(answer=answer, fences=tuple(fences), blocks=blocks, thoughts=found.thoughts)
    if is_too_long:
        # A text cut in the middle may parse by accident: the lone bracket makes it a syntax error.
        return replace(extraction, candidates=(CandidateProgram(source=f"{text}\n(", has_signature=False),))
    if found.verbatim:
        verbatim = CandidateProgram(source=found.verbatim, has_signature=False, end=len(found.text))
        extraction = replace(extraction, verbatim=verbatim)
    extraction = replace(extraction, no_code_reason=found.no_answer_reason)
    return _with_candidates(extraction, found.text, statement_comments, signature=signature, name=name)


def _with_candidates(
    extraction: Extraction, text: str, statement_comments: Sequence[str], *, signature: str, name: str
) -> Extraction:
    """Choose the block of the answer ``text`` that holds the solution, and list its candidate programs."""
    chosen = choose_block(text, name)
    start, block_end, after = chosen.block.start, chosen.block.end, chosen.block.after
    code = without_transcript(without_statement(text[start:block_end], statement_comments))
    defines = definition_depth(code, Block(language="", start=0, end=len(code), after=len(code)), name) is not None
    leading = end_of_leading_prose(code, defines=defines)
    spans = lexical.spans(code[leading:])
    marker = lexical.end_marker(code[leading:], spans)
    has_end_marker = marker is not None or lexical.has_end_marker(text[after:])
    end = len(code) if marker is None else leading + marker
    if not _has_code(code[leading:end], spans):
        return replace(extraction, has_end_marker=has_end_marker)
    code = _with_plain_spaces(code, leading, end, spans)
    trailing = leading + start_of_trailing_prose(code[leading:end], spans)
    if not _has_code(code[leading:trailing], spans):
        trailing = end
    has_end_marker = has_end_marker or (trailing < end and lexical.has_end_marker(code[trailing:end]))
    ranges = dict.fromkeys([(leading, trailing), (leading, end), (0, end)])
    definitions = [_candidate(text, code, start, part, None) for part in ranges]
    body = _candidate(text, code, start, (leading, trailing), signature)
    # If nothing parses, the syntax error of the first candidate is reported.
    candidates = [*definitions, body] if defines else [body, *definitions]
    if chosen.is_marked and begins_with_code(text):
        # The fences or tags may be in literals of a program. Only then does the whole text parse.
        candidates.append(_candidate(text, text, 0, (0, lexical.end_marker(text) or len(text)), None))
    return replace(
        extraction,
        candidates=tuple(candidates),
        no_code_reason="",
        joined=_joined(text, code[:trailing], chosen.earlier, chosen.block),
        has_end_marker=has_end_marker,
        code=text[start:block_end],
        language=chosen.block.language,
    )


def _candidate(text: str, code: str, start: int, part: tuple[int, int], signature: str | None) -> CandidateProgram:
    """Make the candidate ``code[part]``, with the signature in front if one is given; ``code`` starts at ``text[start]``."""
    source = code[part[0] : part[1]]
    line = text.count("\n", 0, start + part[0]) + 1
    if signature is not None:
        source, line = f"{signature}\n{source}", line - signature.count("\n") - 1
    return CandidateProgram(
        source=source,
        has_signature=signature is not None,
        first_line=line,
        start=start + part[0],
        end=start + part[1],
    )


def _joined(text: str, code: str, earlier: Sequence[Block], block: Block) -> CandidateProgram | None:
    """Join all blocks to one program in which each keeps its lines of the text; None if there is only one."""
    if not earlier:
        return None
    parts, position = [], 0
    for part in earlier:
        parts += [blank(text[position : part.start]), text[part.start : part.end].translate(_SPACES)]
        position = part.end
    source = "".join([*parts, blank(text[position : block.start]), code])
    return CandidateProgram(source=source, has_signature=False, start=earlier[0].start, end=block.start + len(code))


def _has_code(code: str, spans: Sequence[Span]) -> bool:
    """Return whether the code is more than comments; ``spans`` are its spans and may reach beyond its end.

    An unclosed comment that swallows definitions counts as code: it is an error for OCaml to report.
    """
    for span in spans:
        if span.start >= len(code):
            return False
        if not span.closed and first_code_line(code, span.start + 2, len(code)) is not None:
            return True
        if span.kind is Kind.STRING or (span.kind is Kind.CODE and code[span.start : span.end].strip()):
            return True
    return False


def _with_plain_spaces(code: str, start: int, end: int, spans: Sequence[Span]) -> str:
    """Replace no-break spaces outside literals by spaces; ``spans`` are the spans of ``code[start:]``."""
    if code.isascii():
        return code
    parts = [code[:start].translate(_SPACES)]
    for span in spans:
        part = code[start + span.start : min(end, start + span.end)]
        parts.append(part if span.kind is Kind.STRING else part.translate(_SPACES))
        if start + span.end >= end:
            break
    return "".join(parts)
