"""Text in the chosen code block that is not code: a copy of the statement, a toplevel session, prose. Pure and linear.

Dropped text in the middle is overwritten with spaces, so that code keeps its position and line.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

from grader import lexical
from grader.lexical import Kind, Span
from grader.lines import MAX_INDENT, blank, first_code_line, is_prose

_ANNOUNCEMENT = re.compile(r"(?!let |type |module )[A-Za-z][a-z'\u2019]*+[,!]?(?: [^\s=]++)++(?<=[A-Za-z0-9_`)]:)$")
_UNINDENTED = re.compile(r"\n[A-Z#*>+\u2022=0-9-][^\n]*")
_LANGUAGE_LINE = re.compile(
    r"\s*(?:(?:ocaml|OCaml|Ocaml|OCAML)[ \t]*:?|(?:ml|caml)[ \t]*:?(?=\s*(?:let|type|module|open|exception|\(\*)\s))"
    r"[ \t]*\n(?=\s*\S)"
)
_SHEBANG = re.compile(r"\s*#![^\n]*")
_INPUT = re.compile(r"(?:utop(?:\[\d+\])?[ \t]?[#>]|#) ")
_DEFINING_INPUT = re.compile(rf"^{_INPUT.pattern}(?:let|type|module|open|exception|class)\b", re.MULTILINE)
_REPLY = re.compile(r"^(?:val [^\n]*? = <[^\n]*|- : [^\n]*? = [^\n]*)$", re.MULTILINE)
_WORD = re.compile(r"\w+")
_MIN_DISTINCTIVE_CHARS = 30  # a shorter comment of the statement may be the completion's own
_COPIED_SHARE = 0.7  # share of a comment's words that the statement's comment has too


def without_statement(code: str, statement_comments: Sequence[str]) -> str:
    """Blank a copy of the statement's comments (``statement_comments``), which may not lex: their prose can hold a lone quote."""
    for comment in statement_comments:
        if "\n" in comment or ">>>" in comment or len(comment) > _MIN_DISTINCTIVE_CHARS:
            found = code.find(comment)
            if found >= 0:
                code = code[:found] + blank(comment) + code[found + len(comment) :]
    start = len(code) - len(code.lstrip())
    if not code.startswith("(*", start) or lexical.end_marker(code[start : start + 40]) == 0:
        return code
    # The copy may differ a little. A comment that is the completion's own is left for OCaml to accept or refuse.
    end = lexical.readable_comment_end(code[start:])
    if end is None or not _is_copy(code[start : start + end], statement_comments):
        return code
    return code[:start] + blank(code[start : start + end]) + code[start + end :]


def _is_copy(comment: str, statement_comments: Sequence[str]) -> bool:
    """Return whether a comment that OCaml cannot lex repeats a comment of the statement that OCaml cannot lex either."""
    words = Counter(_WORD.findall(comment.lower()))
    for original in statement_comments:
        first = lexical.spans(original)[0]
        if not (first.closed and first.end == len(original)):
            shared = (Counter(_WORD.findall(original.lower())) & words).total()
            if shared >= max(2, _COPIED_SHARE * words.total()):
                return True
    return False


def without_transcript(code: str) -> str:
    """Blank the prompts and replies of a toplevel session, and a first line that names the language or its interpreter."""
    language = _LANGUAGE_LINE.match(code) or _SHEBANG.match(code)
    if language:
        code = blank(language.group()) + code[language.end() :]
    if ("# " in code or "utop" in code) and _DEFINING_INPUT.search(code):
        return _inputs_of_transcript(code)
    if "\n- : " in code or "= <" in code:
        return _REPLY.sub(lambda reply: " " * len(reply.group()), code)
    return code


def _inputs_of_transcript(code: str) -> str:
    lines, in_input = [], False
    for line in code.split("\n"):
        prompt = _INPUT.match(line)
        if prompt:
            in_input = not line.startswith("#", prompt.end())
            line = " " * prompt.end() + line[prompt.end() :]
        lines.append(line if in_input else " " * len(line))
        in_input = in_input and not line.rstrip().endswith(";;")
    return "\n".join(lines)


def end_of_leading_prose(code: str, *, defines: bool) -> int:
    """Position where the prose before the code ends; 0 without such prose.

    Args:
        code: an answer without fences.
        defines: whether it defines the name that the problem asks for; the code then begins at the first keyword.
    """
    position, prose_end = 0, 0
    while position < len(code):
        end = code.find("\n", position) + 1 or len(code)
        line = code[position:end].strip()
        if line and not is_prose(line) and not _ANNOUNCEMENT.match(line):
            break
        prose_end = end if line else prose_end
        position = end
    if prose_end == 0 or not code[prose_end:].strip():
        return 0
    if defines:
        first = first_code_line(code, prose_end, len(code))
        return prose_end if first is None else first
    return prose_end


def start_of_trailing_prose(code: str, spans: Sequence[Span]) -> int:
    """Position where prose after the code starts, outside comments and literals; the code's length without such prose.

    Args:
        code: a program, possibly followed by prose.
        spans: its lexical spans.
    """
    starts: list[int] = []
    for found in _UNINDENTED.finditer(code):
        position = found.start() + 1
        before = code[max(0, found.start() - MAX_INDENT) : found.start()].rstrip(" \t")
        if not is_prose(code[position : found.end()], new_paragraph=before.endswith("\n")):
            continue
        starts = starts or [span.start for span in spans]
        index = bisect_right(starts, position) - 1
        if index < len(spans) and spans[index].kind is Kind.CODE:
            return position
    return len(code)
