"""Which part of an answer is marked as code: by Markdown fences, by tags like ``<code>``. Pure and linear."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from grader.prose import is_prose, starts_line

_FENCE = re.compile(r"([`~])(?:\1){2,}+[ \t]*+([A-Za-z+#]*+)([^\n`]*+)(?=\n|\Z)")
_ITEM = re.compile(r"[ \t]*(?:(?:[-*+>\u2022]|\d+[.)])[ \t]+)*\Z")
_OCAML_TAGS = frozenset({"ocaml", "ml", "caml", "reasonml"})
_CODE_AT_ONCE = re.compile(r"\s*(?:(?:let|type|module|open|exception|include|class)\s|\(\*)")
_NAMES = "code|pre|answer|solution|response|output|ocaml|final"
_TEX = "code|lstlisting|verbatim|Verbatim|minted|ocaml"
_EDGE = re.compile(
    rf"<(?P<name>{_NAMES})(?:[ \t][^>\n]*)?>|</(?P<end>{_NAMES})>"
    rf"|\[(?P<NAME>OCAML|CODE|ANSWER|SOLUTION)\]|\[/(?P<END>OCAML|CODE|ANSWER|SOLUTION)\]"
    rf"|\\begin\{{(?P<tex>{_TEX})\}}(?:\[[^\]\n]*\])?(?:\{{[^}}\n]*\}})?|\\end\{{(?P<tex_end>{_TEX})\}}"
)
_DEFINER = re.compile(r"(?:^|\n)([^\S\n]*)(?:let|and)(?:\[@[^\]\n]*\])?\s+(?:rec\s+)?\(?\s*\Z")
# An application of the function, its tests, a shell session: what follows an answer rather than what is one.
_USAGE = re.compile(r"\s*(?:let\s*\(\s*\)|let\s+_\s|assert\b|print_|Printf\.|[#$>%] |utop|ocaml|dune|val |- :|;;)")
# How far before a name its ``let`` is looked for.
_REACH = 80


class Fence(NamedTuple):
    """One fence line."""

    start: int  # of the line, or of the backquotes where code stands before them
    end: int  # of the line
    content: int  # where the code begins that it opens
    mark: str
    tag: str  # the language, in lower case
    may_open: bool
    may_close: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A stretch of the answer that is marked as code."""

    tag: str  # the language, in lower case, or ""
    start: int
    end: int
    after: int  # behind what closes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The block that is the answer: the whole text where nothing is marked."""

    block: Block
    earlier: tuple[Block, ...] = ()  # blocks of OCaml before it
    is_marked: bool = True


def choose(text: str, name: str) -> Choice:
    """The block that holds the answer to a problem that asks for ``name``.

    The last block that defines the name is the answer, whatever else is shown; without one, the last block of OCaml that
    is no mere usage, which continues the signature.
    """
    whole = Block(tag="", start=0, end=len(text), after=len(text))
    outer = _tagged(text, whole)
    defining = [block for block in outer if definition_depth(text, block, name) is not None]
    scope = defining[-1] if defining else whole
    inner = _tagged(text, scope) if scope is not whole else []
    scope = next((block for block in reversed(inner) if definition_depth(text, block, name) is not None), scope)
    found = fenced(text, scope.start, scope.end)
    if not found:
        marked = [block for block in outer if text[block.start : block.end].strip()]
        if scope is whole and marked and definition_depth(text, whole, name) is None:
            scope = marked[-1]
        return Choice(block=scope, is_marked=scope is not whole)
    chosen = _answer_among(text, found, scope, name)
    earlier = found[: found.index(chosen)] if chosen in found else []
    return Choice(block=chosen, earlier=tuple(block for block in earlier if not block.tag or block.tag in _OCAML_TAGS))


def _answer_among(text: str, found: Sequence[Block], scope: Block, name: str) -> Block:
    filled = [block for block in found if text[block.start : block.end].strip()] or list(found)
    depths = [(definition_depth(text, block, name), block) for block in filled]
    outside = _outside(text, found, scope)
    depths_outside = [(definition_depth(text, block, name), block) for block in outside]
    for candidates, most in ((depths, 0), (depths_outside, 0), (depths, _REACH)):
        defining = [block for depth, block in candidates if depth is not None and depth <= most]
        if defining:
            return defining[-1]
    usage = re.compile(rf"{_USAGE.pattern}|\s*{re.escape(name)}\s") if name else _USAGE
    bodies = [block for block in filled if not usage.match(text, block.start, block.end)]
    tagged = [block for block in bodies if block.tag in _OCAML_TAGS] or [
        block for block in filled if block.tag in _OCAML_TAGS
    ]
    if tagged:
        return tagged[-1]
    # Without a language the first is the code, and what follows is what it prints.
    return (bodies or filled)[0]


def begins_with_code(text: str) -> bool:
    """Whether a text begins with a definition or a comment rather than with prose or a fence."""
    return _CODE_AT_ONCE.match(text) is not None


def _outside(text: str, found: Sequence[Block], scope: Block) -> list[Block]:
    """What stands before the first and after the last block."""
    fence_start = text.rfind("\n", scope.start, max(scope.start, found[0].start - 1)) + 1
    before = Block(tag="", start=scope.start, end=max(scope.start, fence_start), after=found[0].start)
    after = Block(tag="", start=found[-1].after, end=scope.end, after=scope.end)
    return [before, after]


def definition_depth(text: str, block: Block, name: str) -> int | None:
    """How much deeper than the block's first line its least indented definition of the name stands; None: it has none."""
    if not name:
        first = _CODE_AT_ONCE.match(text, block.start, block.end)
        return 0 if first else None
    content = text.find(text[block.start : block.end].lstrip()[:1] or " ", block.start, block.end)
    first_indent = content - (text.rfind("\n", block.start, max(block.start, content)) + 1 or block.start)
    best: int | None = None
    position = text.find(name, block.start, block.end)
    while position >= 0:
        end = position + len(name)
        before, after = text[position - 1 : position], text[end : end + 1]
        # A short name is part of many words.
        if not (before.isalnum() or after.isalnum() or after in ("_", "'") or before in ("_", "'", ".")):
            definer = _DEFINER.search(text[max(block.start, position - _REACH) : position])
            if definer:
                depth = max(0, len(definer.group(1)) - first_indent)
                best = depth if best is None else min(best, depth)
                if best == 0:
                    return 0
        position = text.find(name, end, block.end)
    return best


def fences(text: str, start: int = 0, end: int | None = None) -> list[Fence]:
    """The fence lines between two positions, in order."""
    end = len(text) if end is None else end
    if text.find("```", start, end) < 0 and text.find("~~~", start, end) < 0:
        return []
    found = []
    for fence in _FENCE.finditer(text, start, end):
        line_start = _line_start(text, fence.start(), start)
        if line_start is None:
            continue
        alone = _ITEM.match(text, line_start, fence.start()) is not None
        tag, rest = fence.group(2).lower(), fence.group(3).strip()
        in_rest = bool(rest) and _CODE_AT_ONCE.match(text, fence.start(2), fence.end()) is not None
        after_tag = bool(rest) and _CODE_AT_ONCE.match(text, fence.end(2), fence.end()) is not None
        content = fence.start(2) if in_rest else fence.end(2) if after_tag else fence.end()
        # In the middle of a line only an OCaml tag opens, and only a bare fence closes.
        may_open = alone or (tag in _OCAML_TAGS and not rest)
        may_close = not tag and not rest
        if may_open or may_close:
            found.append(
                Fence(
                    start=line_start if alone else fence.start(),
                    end=fence.end(),
                    content=content,
                    mark=fence.group(1),
                    tag="" if in_rest else tag,
                    may_open=may_open,
                    may_close=may_close,
                )
            )
    return found


def _line_start(text: str, position: int, floor: int) -> int | None:
    start = text.rfind("\n", max(floor, position - 10 * _REACH), position) + 1
    if start > 0 or position - floor <= 10 * _REACH:
        return max(start, floor)
    return None


def fenced(text: str, start: int = 0, end: int | None = None) -> list[Block]:
    """The fenced blocks between two positions; one that is never closed ends with the text.

    A fence with a language always opens, so that an unclosed block ends there.
    """
    end = len(text) if end is None else end
    lines = fences(text, start, end)
    found: list[Block] = []
    if lines and not lines[0].tag and _closes_at_once(text, lines, start):
        # It was opened in the prompt, or never: what stands before it is the code.
        found.append(Block(tag="", start=start, end=lines[0].start, after=lines[0].end))
        lines = lines[1:]
    opening: Fence | None = None
    for line in lines:
        if opening is None:
            opening = line if line.may_open else None
        elif line.tag or (line.may_close and line.mark == opening.mark):
            after = line.start if line.tag else line.end
            found.append(Block(tag=opening.tag, start=opening.content, end=line.start, after=after))
            opening = line if line.tag and line.may_open else None
    if opening is not None:
        found.append(Block(tag=opening.tag, start=opening.content, end=end, after=end))
    return found


def _closes_at_once(text: str, lines: Sequence[Fence], start: int) -> bool:
    before = text[start : lines[0].start].strip()
    if not before or not lines[0].may_close or is_prose(before.split("\n", 1)[0], new_paragraph=True):
        return False
    return len(lines) % 2 == 1 or bool(lines[1].tag)


def _tagged(text: str, scope: Block) -> list[Block]:
    """Elements like ``<code>...</code>`` whose opening stands at the start of a line or in the prompt; the outermost ones."""
    part = text[scope.start : scope.end] if scope.start or scope.end < len(text) else text
    if "</" not in part and "[/" not in part and "\\end{" not in part and part.lstrip()[:1] not in ("<", "[", "\\"):
        return []
    found: list[Block] = []
    opening: re.Match[str] | None = None
    for edge in _EDGE.finditer(text, scope.start, scope.end):
        opens = edge.lastgroup in ("name", "NAME", "tex")
        if opening is None:
            follows = bool(found) and found[-1].after == edge.start()
            if opens and (edge.start() == scope.start or follows or starts_line(text, edge.start())):
                opening = edge
            elif not (opens or found or text[edge.end() : scope.end].strip()):
                # Nothing but a closing tag, at the very end: the prompt wrote the one that opens.
                found.append(Block(tag="", start=scope.start, end=edge.start(), after=edge.end()))
        elif not opens and edge.group(edge.lastgroup or 0) == opening.group(opening.lastgroup or 0):
            found.append(Block(tag="", start=opening.end(), end=edge.start(), after=edge.end()))
            opening = None
    if opening is not None:
        found.append(Block(tag="", start=opening.end(), end=scope.end, after=scope.end))
    return found
