"""A warning about a ``.envrc`` in the working directory whose variables are not in the environment."""

import re
from collections.abc import Container, Mapping
from pathlib import Path

ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?([A-Za-z_]\w*)=", re.MULTILINE)


def ignored_variables(folder: Path, environment: Mapping[str, str], names: Container[str]) -> str | None:
    """A log line about the ``names`` that ``folder/.envrc`` sets and the environment lacks; None without any."""
    try:
        text = (folder / ".envrc").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    ignored = [name for name in dict.fromkeys(ASSIGNMENT.findall(text)) if name in names and name not in environment]
    if not ignored:
        return None
    return f".envrc sets {', '.join(ignored)}, and is not read: load it first, with `set -a; source .envrc` or direnv"
