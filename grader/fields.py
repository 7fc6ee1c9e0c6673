"""Conversion of a data set's cells to plain texts. Pure.

Files hold the same content in several forms: a list of tests, a chat, bytes, Windows line ends. Each is converted to one form
here, so that no later code has to handle them. Other values raise ValueError with a description.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from grader.lexical import Kind, spans

_LINE_ENDS = re.compile(r"\r+\n|\r")
_SPACES = {
    **dict.fromkeys(map(ord, "\u00a0\u2007\u202f\u200b\ufeff"), " "),
    **dict.fromkeys(map(ord, "\u0085\u2028\u2029"), "\n"),
}
_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_NUM_KEYS_SHOWN = 6


class IncompleteRow(ValueError):
    """A row without a part that every problem needs."""

    def __init__(self, message: str, *, code: str) -> None:
        """``code`` names the missing part in the results of an audit."""
        super().__init__(message)
        self.code = code


class PromptCell(NamedTuple):
    """The prompt of a cell, and the answer if the cell is a conversation with one."""

    prompt: str
    answer: str | None = None


def is_missing(value: Any) -> bool:
    """Return whether a cell holds nothing: None, NaN, an empty or blank text, an empty list."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    if isinstance(value, str | bytes):
        return not value.strip()
    return hasattr(value, "__len__") and len(value) == 0


def identifier(value: Any) -> str:
    """Return an id as a text; 1, 1.0 and "1" are the same id."""
    value = _plain(value, "id")
    if is_missing(value):
        raise ValueError(f"no id{' (it is NaN)' if isinstance(value, float) else ''}")
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value in (math.inf, -math.inf):
        raise ValueError(f"the id is {_kind(value)}, not a text or a number")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return " ".join(str(value).split())  # one line, since logs and tables contain ids


def plain_text(value: Any, field: str) -> str:
    """Return a text with ``\n`` as line end and without a byte order mark."""
    text = _plain(value, field)
    if not isinstance(text, str):
        raise ValueError(f"the {field} is {_kind(text)}, not a text")
    if "\r" in text:
        text = _LINE_ENDS.sub("\n", text)
    return text.removeprefix("\ufeff")


def plain_code(value: Any, field: str) -> str:
    """Return OCaml code as plain text; outside literals, Unicode spaces and line ends are replaced by plain ones."""
    text = plain_text(value, field)
    if not text.isascii():
        parts = ((span.kind, text[span.start : span.end]) for span in spans(text))
        text = "".join(part if kind is Kind.STRING else part.translate(_SPACES) for kind, part in parts)
    blocks = _FENCED.findall(text) if "```" in text or "~~~" in text else []
    return ("\n".join(block for _, block in blocks) if blocks else text).strip("\n")


def prompt_cell(value: Any) -> PromptCell:
    """Return the text of a prompt, which may be a conversation of one user turn, with or without its answer."""
    value = _decoded(value, "prompt")
    turns = _turns(value)
    if turns is None:
        if isinstance(value, str):
            return PromptCell(plain_text(value, "prompt").strip("\n"))
        raise ValueError(f"the prompt is {_kind(value)}, neither a text nor a list of chat messages (role, content)")
    questions = [text for role, text in turns if role == "user"]
    if len(questions) != 1:
        roles = ", ".join(role for role, _ in turns)
        raise ValueError(f"the prompt is a conversation with {len(questions)} user turns ({roles}), not with one")
    last_role, last = turns[-1]
    return PromptCell(questions[0].strip("\n"), last if last_role == "assistant" and last.strip() else None)


def answer(value: Any, field: str) -> str:
    """Return the text of a completion or solution, which may be a conversation that ends with the assistant's turn."""
    value = _decoded(value, field, chat_only=True)
    turns = _turns(value)
    if turns is None:
        if isinstance(value, str):
            return value
        raise ValueError(f"the {field} is {_kind(value)}, neither a text nor a list of chat messages (role, content)")
    if turns[-1][0] != "assistant":
        raise ValueError(f"the {field} is a conversation that ends with the {turns[-1][0]}'s turn, not the assistant's")
    return turns[-1][1]


def tests(value: Any) -> str:
    """Return the tests as one OCaml text; each text of a list becomes a separate statement."""
    value = _decoded(value, "tests")
    if isinstance(value, str):
        code = plain_code(value, "tests")
    elif isinstance(value, list) and all(isinstance(text, str) or is_missing(text) for text in value):
        parts = [plain_code(text, "tests").strip() for text in value if not is_missing(text)]
        # ";;" ends expressions and definitions; a ";" at the end of a part would join it to the next one.
        code = "\n;;\n".join(re.sub(r"[;\s]+\Z", "", part) for part in parts)
    else:
        raise ValueError(f"the tests are {_kind_of_tests(value)}, not OCaml with asserts")
    if "assert" not in code:
        raise IncompleteRow("the tests hold no assert", code="no_assert")
    return code


def _plain(value: Any, field: str) -> Any:
    """Return a cell's value as a built-in type: bytes decoded, arrays as lists."""
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"the {field} is binary data, not UTF-8 text ({len(value)} bytes)") from None
    return value.tolist() if hasattr(value, "tolist") else value  # numpy, which pandas and datasets return


def _decoded(value: Any, field: str, *, chat_only: bool = False) -> Any:
    """Return the value, parsed if it is the text of a JSON list or object, since text columns often hold JSON."""
    value = _plain(value, field)
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            return value  # OCaml can begin with a bracket too
        return value if chat_only and _turns(inner) is None else inner
    return value


def _turns(value: Any) -> list[tuple[str, str]] | None:
    """Return role and text of each message, or None if the value is not a chat."""
    if isinstance(value, Mapping) and len(value) == 1:  # {"messages": [...]}
        value = next(iter(value.values()))
    if isinstance(value, Mapping) and value and all(isinstance(_plain(column, ""), list) for column in value.values()):
        # {"role": [...], "content": [...]}: a sequence of datasets
        columns = [_plain(column, "") for column in value.values()]
        if len({len(column) for column in columns}) == 1:
            value = [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    value = _plain(value, "chat")
    if not isinstance(value, list) or not value or not all(_is_message(message) for message in value):
        return None
    return [_turn(message) for message in value]


def _is_message(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value.keys() & {"role", "from"})
        and bool(value.keys() & {"content", "value"})
    )


def _turn(message: Mapping[str, Any]) -> tuple[str, str]:
    given = str(message.get("role", message.get("from"))).strip().lower()
    content = _plain(message.get("content", message.get("value")), "content")
    if isinstance(content, list):  # parts: {"type": "text", "text": ...}
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a chat message holds parts that are not text")
        content = "".join(map(str, texts))
    if content is not None and not isinstance(content, str):
        raise ValueError(f"a chat message holds {_kind(content)}, not a text")
    return _ROLES.get(given, given), plain_text(content or "", "chat message")


def _kind(value: Any) -> str:
    """Describe the kind of a value."""
    if isinstance(value, bool):
        return f"{value}, a boolean"
    if isinstance(value, int | float):
        return f"a number ({value})"
    if isinstance(value, Mapping):
        return f"an object ({_keys(value)})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        first = f", the first {_kind(value[0])}" if value else ""
        return f"a list of {len(value)}{first}"
    return "a text" if isinstance(value, str) else f"a {type(value).__name__}"


def _kind_of_tests(value: Any) -> str:
    if isinstance(value, list) and value and all(isinstance(test, Mapping) for test in value):
        return f"a list of {len(value)} objects ({_keys(value[0])})"
    return _kind(value)


def _keys(value: Mapping[str, Any]) -> str:
    keys = ", ".join(map(str, list(value)[:_NUM_KEYS_SHOWN]))
    return f"keys {keys}{', ...' if len(value) > _NUM_KEYS_SHOWN else ''}"
