"""Rows of a run's JSONL files, which may be read while they are written."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from cluster.errors import RunFolderError

REQUIRED: Mapping[str, Mapping[str, type]] = {
    "metrics.jsonl": {"step": float, "epoch": float},
    "publishes.jsonl": {"step": float},
    "phases.jsonl": {"step": float, "set": dict},
    "health.jsonl": {"step": float, "rule": str},
    "evaluation.jsonl": {
        "name": str,
        "step": float,
        "reward": float,
        "reward_standard_error": float,
        "pass_rate": float,
        "solved_once": float,
    },
}
"""Fields that every row of a file has. Other fields may be missing, as in the files of older versions."""

_TYPE_NAMES = {float: "a number", dict: "an object", str: "a text"}


def whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file; none if there is no file.

    A last line without a line break is still being written and is skipped. Raises RunFolderError for any other broken line.
    """
    if not path.is_file():
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error.strerror})") from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            yield parse_row(path, number, line)


def parse_row(path: Path, number: int, line: str | bytes) -> dict[str, Any]:
    """Return the object in one line of a file; raises RunFolderError."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("it is not an object")
        for key, kind in REQUIRED.get(path.name, {}).items():
            value = row.get(key)
            if not (is_finite(value) if kind is float else isinstance(value, kind)):
                raise ValueError(f"{key!r} is {json.dumps(value)[:40]}, not {_TYPE_NAMES[kind]}")
    except ValueError as error:
        raise RunFolderError(f"{path}, line {number}: cannot be read ({error})") from None
    return row


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file. str.splitlines would also split at characters inside completions (U+2028, ...)."""
    # A file that was truncated by a full disk may end within a character.
    *lines, last = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [*lines, last] if last else lines


def step_of_line(line: str) -> int:
    """Return the step of a JSON line; a very large number if it is broken."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 1 << 62  # a line that was truncated by a crash


def is_finite(value: Any) -> TypeGuard[float]:
    """Return True for a finite number; False for None, infinity and NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
