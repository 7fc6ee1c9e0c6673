"""Descriptions of changed settings, in one line also for long texts."""

from itertools import zip_longest
from typing import Any

from cluster.config.yaml_text import dump_yaml_text

MAX_CHARS = 100  # of a value that is shown whole


def describe_change(key: str, before: Any, now: Any) -> str:
    """Return ``key=value (was ...)``; of a longer text, its first line that differs."""
    if all(len(str(value)) <= MAX_CHARS and "\n" not in str(value) for value in (before, now)):
        return f"{key}={now} (was {before})"
    texts = [value if isinstance(value, str) else dump_yaml_text(value) for value in (now, before)]
    lines = zip_longest(*(text.splitlines() for text in texts), fillvalue="")
    number, first = next(
        ((number, pair) for number, pair in enumerate(lines, start=1) if pair[0] != pair[1]), (1, ("", ""))
    )
    is_text = isinstance(now, str) and isinstance(before, str)
    place = f" in line {number}" if is_text else ""
    shown = [f"{line[:MAX_CHARS]!r}" if line else "nothing" for line in first]
    return f"{key}: {shown[0]}{place} (was {shown[1]})"
