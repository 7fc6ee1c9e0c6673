"""The parts of an answer that are marked as code, by Markdown fences or tags like ``<code>``. Pure and linear."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from grader.lines import CODE_START, is_prose, starts_line

_FENCE = re.compile(r"([`~])(?:\1){2,}+[ \t]*+([A-Za-z+#]*+)([^\n`]*+)(?=\n|\Z)")
# Matches if only list markers and quote marks precede a fence on its line.
_MARKERS = re.compile(r"[ \t]*(?:(?:[-*+>\u2022]|\d+[.)])[ \t]+)*\Z")
_OCAML_LANGUAGES = frozenset({"ocaml", "ml", "caml", "reasonml"})
_TAG_NAMES = "code|pre|answer|solution|response|output|ocaml|final"
_TEX_NAMES = "code|lstlisting|verbatim|Verbatim|minted|ocaml"
_TAG = re.compile(
    rf"<(?P<name>{_TAG_NAMES})(?:[ \t][^>\n]*)?>|</(?P<end>{_TAG_NAMES})>"
    rf"|\[(?P<NAME>OCAML|CODE|ANSWER|SOLUTION)\]|\[/(?P<END>OCAML|CODE|ANSWER|SOLUTION)\]"
    rf"|\\begin\{{(?P<tex>{_TEX_NAMES})\}}(?:\[[^\]\n]*\])?(?:\{{[^}}\n]*\}})?|\\end\{{(?P<tex_end>{_TEX_NAMES})\}}"
)
# ``let`` or ``and`` directly before the name that it defines.
_DEFINER = re.compile(r"(?:^|\n)([^\S\n]*)(?:let|and)(?:\[@[^\]\n]*\])?\s+(?:rec\s+)?\(?\s*\Z")
# A call of the function, its tests or a shell session: these follow an answer and are not the answer.
_USAGE = re.compile(r"\s*(?:let\s*\(\s*\)|let\s+_\s|assert\b|print_|Printf\.|[#$>%] |utop|ocaml|dune|val |- :|;;)")
_MAX_LET_CHARS = 80  # between the ``let`` of a definition and the name it defines
_ANY_DEPTH = _MAX_LET_CHARS  # no depth is larger, since the indentation is among these characters
_MAX_FENCE_LINE_CHARS = 800  # before a fence on its line


class Fence(NamedTuple):
    """One fence line."""

    start: int  # start of the line, or of the backquotes if code precedes them on the line
    end: int  # end of the line
    content: int  # start of the code after an opening fence
    mark: str  # a backquote or a tilde
    language: str  # in lower case; empty if none is named
    may_open: bool
    may_close: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Code between two fences or tags, ``text[start:end]``."""

    language: str  # in lower case; empty if none is named
    start: int
    end: int
    after: int  # end of the closing fence or tag


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The block that holds the solution."""

    block: Block  # the whole text if nothing in it is marked as code
    earlier: tuple[Block, ...] = ()  # OCaml blocks before it
    is_marked: bool = True  # False if ``block`` is the whole text


def choose_block(text: str, name: str) -> Choice:
    """Choose the block that holds the solution; ``name`` is the function that the problem asks for.

    The last block that defines the name is chosen. If no block defines it, the last OCaml block that is more than a usage example
    is chosen: it continues the signature in the prompt.
    """
    whole = Block(language="", start=0, end=len(text), after=len(text))
    outer = _tagged(text, whole)
    defining = [block for block in outer if definition_depth(text, block, name) is not None]
    scope = defining[-1] if defining else whole
    inner = _tagged(text, scope) if scope is not whole else []
    scope = next((block for block in reversed(inner) if definition_depth(text, block, name) is not None), scope)
    found = fenced_blocks(text, find_fences(text, scope.start, scope.end), scope.start, scope.end)
    if not found:
        marked = [block for block in outer if text[block.start : block.end].strip()]
        if scope is whole and marked and definition_depth(text, whole, name) is None:
            scope = marked[-1]
        return Choice(block=scope, is_marked=scope is not whole)
    chosen = _solution_among(text, found, scope, name)
    earlier = found[: found.index(chosen)] if chosen in found else []
    is_ocaml = {"", *_OCAML_LANGUAGES}
    return Choice(block=chosen, earlier=tuple(block for block in earlier if block.language in is_ocaml))


def _solution_among(text: str, found: Sequence[Block], scope: Block, name: str) -> Block:
    filled = [block for block in found if text[block.start : block.end].strip()] or list(found)
    depths = [(definition_depth(text, block, name), block) for block in filled]
    outside = _outside(text, found, scope)
    depths_outside = [(definition_depth(text, block, name), block) for block in outside]
    for candidates, max_depth in ((depths, 0), (depths_outside, 0), (depths, _ANY_DEPTH)):
        defining = [block for depth, block in candidates if depth is not None and depth <= max_depth]
        if defining:
            return defining[-1]
    usage = re.compile(rf"{_USAGE.pattern}|\s*{re.escape(name)}\s") if name else _USAGE
    without_usage = [block for block in filled if not usage.match(text, block.start, block.end)]
    for blocks in (without_usage, filled):
        ocaml = [block for block in blocks if block.language in _OCAML_LANGUAGES]
        if ocaml:
            return ocaml[-1]
    # If no fence names a language, the first block is the code and later ones show its output.
    return (without_usage or filled)[0]


def _outside(text: str, found: Sequence[Block], scope: Block) -> list[Block]:
    """The parts before the first and after the last block."""
    fence_start = text.rfind("\n", scope.start, max(scope.start, found[0].start - 1)) + 1
    before = Block(language="", start=scope.start, end=max(scope.start, fence_start), after=found[0].start)
    after = Block(language="", start=found[-1].after, end=scope.end, after=scope.end)
    return [before, after]


def definition_depth(text: str, block: Block, name: str) -> int | None:
    """Smallest indentation of a definition of ``name``, relative to the block's first line; None if nothing defines it.

    Without a name, a block that begins like code has depth 0.
    """
    if not name:
        first = CODE_START.match(text, block.start, block.end)
        return 0 if first else None
    content = text.find(text[block.start : block.end].lstrip()[:1] or " ", block.start, block.end)
    first_indent = content - (text.rfind("\n", block.start, max(block.start, content)) + 1 or block.start)
    best: int | None = None
    position = text.find(name, block.start, block.end)
    while position >= 0:
        end = position + len(name)
        before, after = text[position - 1 : position], text[end : end + 1]
        # The name may be part of a longer word.
        if not (before.isalnum() or after.isalnum() or after in ("_", "'") or before in ("_", "'", ".")):
            definer = _DEFINER.search(text[max(block.start, position - _MAX_LET_CHARS) : position])
            if definer:
                depth = max(0, len(definer.group(1)) - first_indent)
                best = depth if best is None else min(best, depth)
                if best == 0:
                    return 0
        position = text.find(name, end, block.end)
    return best


def find_fences(text: str, start: int = 0, end: int | None = None) -> list[Fence]:
    """Find the fence lines of ``text[start:end]``, in order."""
    end = len(text) if end is None else end
    if text.find("```", start, end) < 0 and text.find("~~~", start, end) < 0:
        return []
    found = []
    for fence in _FENCE.finditer(text, start, end):
        line_start = _line_start(text, fence.start(), start)
        if line_start is None:
            continue
        is_first = _MARKERS.match(text, line_start, fence.start()) is not None
        language, rest = fence.group(2).lower(), fence.group(3).strip()
        is_code_after_fence = bool(rest) and CODE_START.match(text, fence.start(2), fence.end()) is not None
        is_code_after_language = bool(rest) and CODE_START.match(text, fence.end(2), fence.end()) is not None
        content = fence.start(2) if is_code_after_fence else fence.end(2) if is_code_after_language else fence.end()
        # In the middle of a line only a fence that names OCaml opens a block, and only a bare fence closes one.
        may_open = is_first or (language in _OCAML_LANGUAGES and not rest)
        may_close = not language and not rest
        if may_open or may_close:
            found.append(
                Fence(
                    start=line_start if is_first else fence.start(),
                    end=fence.end(),
                    content=content,
                    mark=fence.group(1),
                    language="" if is_code_after_fence else language,
                    may_open=may_open,
                    may_close=may_close,
                )
            )
    return found


def _line_start(text: str, position: int, floor: int) -> int | None:
    start = text.rfind("\n", max(floor, position - _MAX_FENCE_LINE_CHARS), position) + 1
    if start > 0 or position - floor <= _MAX_FENCE_LINE_CHARS:
        return max(start, floor)
    return None


def fenced_blocks(text: str, fences: Sequence[Fence], start: int = 0, end: int | None = None) -> list[Block]:
    """Pair the fences of ``text[start:end]`` into blocks; a block that is never closed ends with the text.

    A fence that names a language always opens a block and ends an unclosed one.
    """
    end = len(text) if end is None else end
    found: list[Block] = []
    if fences and not fences[0].language and _closes_first(text, fences, start):
        # The text has no opening fence (the prompt may have it): the code is before the closing fence.
        found.append(Block(language="", start=start, end=fences[0].start, after=fences[0].end))
        fences = fences[1:]
    opening: Fence | None = None
    for fence in fences:
        if opening is None:
            opening = fence if fence.may_open else None
        elif fence.language or (fence.may_close and fence.mark == opening.mark):
            after = fence.start if fence.language else fence.end
            found.append(Block(language=opening.language, start=opening.content, end=fence.start, after=after))
            opening = fence if fence.language and fence.may_open else None
    if opening is not None:
        found.append(Block(language=opening.language, start=opening.content, end=end, after=end))
    return found


def _closes_first(text: str, fences: Sequence[Fence], start: int) -> bool:
    """Return whether the first fence closes a block instead of opening one."""
    before = text[start : fences[0].start].strip()
    if not before or not fences[0].may_close or is_prose(before.split("\n", 1)[0], new_paragraph=True):
        return False
    return len(fences) % 2 == 1 or bool(fences[1].language)


def _tagged(text: str, scope: Block) -> list[Block]:
    """The outermost elements like ``<code>...</code>`` whose opening tag starts a line or is in the prompt."""
    part = text[scope.start : scope.end] if scope.start or scope.end < len(text) else text
    if "</" not in part and "[/" not in part and "\\end{" not in part and part.lstrip()[:1] not in ("<", "[", "\\"):
        return []
    found: list[Block] = []
    opening: re.Match[str] | None = None
    for tag in _TAG.finditer(text, scope.start, scope.end):
        opens = tag.lastgroup in ("name", "NAME", "tex")
        if opening is None:
            follows = bool(found) and found[-1].after == tag.start()
            if opens and (tag.start() == scope.start or follows or starts_line(text, tag.start())):
                opening = tag
            elif not (opens or found or text[tag.end() : scope.end].strip()):
                # A lone closing tag at the very end: the prompt wrote the opening tag.
                found.append(Block(language="", start=scope.start, end=tag.start(), after=tag.end()))
        elif not opens and tag.group(tag.lastgroup or 0) == opening.group(opening.lastgroup or 0):
            found.append(Block(language="", start=opening.end(), end=tag.start(), after=tag.end()))
            opening = None
    if opening is not None:
        found.append(Block(language="", start=opening.end(), end=scope.end, after=scope.end))
    return found
