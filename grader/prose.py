"""What of an answer's text is no code: sentences, headings, what a toplevel answers. Pure and linear.

Nothing is cut out: what goes is overwritten with spaces, so that every line of code stays on the line of the text.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence

from grader.lexical import Kind, Span

_NOT_NEWLINES = re.compile(r"[^\n]+")
# How far back the start of a line is looked for, so that a text of one huge line costs no more than others.
_REACH = 80

_WORD = r"[`\u201c]?[A-Za-z0-9'\u2019_]++[`\u201d]?[,.:;!?]?"
_SENTENCE = rf"[A-Z][A-Za-z'\u2019]*+(?! of\b)[,:!.]?(?:[ ]{_WORD}){{2}}(?:[ .,:;!?]|$)"
_HEADING = r"#{1,6} [A-Za-z`*]|\*\*[A-Z`][^*\n]*+\*\*|[A-Z][A-Za-z' ]*+:[ \t]*$|(?:---+|\*\*\*+|===+)[ \t]*$"
_ITEM = rf"(?:[-*+\u2022]|\d+[.)]|>) +(?:\*\*[A-Z`]|`[^`\n]+`|{_SENTENCE})"
_PROSE = re.compile(rf"{_SENTENCE}|{_HEADING}|{_ITEM}")
# After an empty line, where a new paragraph is likelier than the rest of an expression.
_PARAGRAPH = re.compile(
    r"[-*\u2022] |\d+[.)] |> |\*\*[A-Z]|[A-Z][A-Za-z'\u2019]*+(?:[ ,]+[`(]?[A-Za-z'\u2019`_]+[`),]?){2,}"
)
_CODE_SIGNS = re.compile(r"->|:=|;;|\|>|\|\||&&")
_ANNOUNCEMENT = re.compile(r"(?!let |type |module )[A-Za-z][a-z'\u2019]*+[,!]?(?: [^\s=]++)++(?<=[A-Za-z0-9_`)]:)$")
_UNINDENTED = re.compile(r"\n[A-Z#*>+\u2022=0-9-][^\n]*")
_STARTER = re.compile(
    r"^[ \t]*(?:let|type|module|open|exception|include|external|class|\(\*|;;)(?![A-Za-z0-9_'])", re.MULTILINE
)
_LANGUAGE_LINE = re.compile(
    r"\s*(?:(?:ocaml|OCaml|Ocaml|OCAML)[ \t]*:?|(?:ml|caml)[ \t]*:?(?=\s*(?:let|type|module|open|exception|\(\*)\s))"
    r"[ \t]*\n(?=\s*\S)"
)

_INPUT = re.compile(r"(?:utop(?:\[\d+\])?[ \t]?[#>]|#) ")
_DEFINING_INPUT = re.compile(rf"^{_INPUT.pattern}(?:let|type|module|open|exception|class)\b", re.MULTILINE)
_REPLY = re.compile(r"^(?:val [^\n]*? = <[^\n]*|- : [^\n]*? = [^\n]*)$", re.MULTILINE)


def blank(text: str) -> str:
    """As many spaces, on as many lines."""
    return _NOT_NEWLINES.sub(lambda line: " " * len(line.group()), text)


def first_starter(text: str, start: int, end: int) -> int | None:
    """Where the first line begins that starts like OCaml, between two positions."""
    found = _STARTER.search(text, start, end)
    return found.start() if found else None


def starts_line(text: str, position: int) -> bool:
    """Whether only blanks stand before a position on its line."""
    before = text[max(0, position - _REACH) : position]
    line = before.rpartition("\n")[2]
    return not line.strip(" \t") and len(line) < _REACH


def is_prose(line: str, *, new_paragraph: bool = False) -> bool:
    """Whether an unindented line is a sentence, a heading or an item of a list, and no OCaml."""
    found = _PROSE.match(line) or (new_paragraph and _PARAGRAPH.match(line))
    return bool(found) and _CODE_SIGNS.search(line) is None


def end_of_leading_prose(code: str, *, defines: bool) -> int:
    """Where the code begins; 0 where it begins at once.

    Args:
        code: an answer without fences.
        defines: whether it holds a definition, so that what stands before the first keyword is no code either.
    """
    position, past = 0, 0
    while position < len(code):
        end = code.find("\n", position) + 1 or len(code)
        line = code[position:end].strip()
        if line and not is_prose(line) and not _ANNOUNCEMENT.match(line):
            break
        past = end if line else past
        position = end
    if past == 0 or not code[past:].strip():
        return 0
    if defines:
        starter = _STARTER.search(code, past)
        return starter.start() if starter else past
    return past


def start_of_trailing_prose(code: str, stretches: Sequence[Span]) -> int:
    """Where the prose after the code begins, in no comment or literal; the length of the code where there is none.

    Args:
        code: a program, maybe with prose after it.
        stretches: its spans.
    """
    starts: list[int] = []
    for found in _UNINDENTED.finditer(code):
        position = found.start() + 1
        before = code[max(0, found.start() - _REACH) : found.start()].rstrip(" \t")
        if not is_prose(code[position : found.end()], new_paragraph=before.endswith("\n")):
            continue
        starts = starts or [span.start for span in stretches]
        index = bisect_right(starts, position) - 1
        if index < len(stretches) and stretches[index].kind is Kind.CODE:
            return position
    return len(code)


def without_transcript(code: str) -> str:
    """Inputs only, where the answer is a session in the toplevel: prompts and what it replied are blanked.

    Also without a first line that names the language alone, which is what is left of a fence.
    """
    language = _LANGUAGE_LINE.match(code)
    if language:
        code = blank(language.group()) + code[language.end() :]
    if ("# " in code or "utop" in code) and _DEFINING_INPUT.search(code):
        return _inputs_of_transcript(code)
    if "\n- : " in code or "= <" in code:
        return _REPLY.sub(lambda reply: " " * len(reply.group()), code)
    return code


def _inputs_of_transcript(code: str) -> str:
    lines, inside = [], False
    for line in code.split("\n"):
        prompt = _INPUT.match(line)
        if prompt:
            inside = not line.startswith("#", prompt.end())
            line = " " * prompt.end() + line[prompt.end() :]
        lines.append(line if inside else " " * len(line))
        inside = inside and not line.rstrip().endswith(";;")
    return "\n".join(lines)
