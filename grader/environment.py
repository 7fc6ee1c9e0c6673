"""The environment variables that a grader's process does not inherit."""

from collections.abc import Mapping

SECRET_ENDINGS = ("_TOKEN", "_KEY", "_SECRET", "_PASSWORD")


def without_secrets(environment: Mapping[str, str]) -> dict[str, dict[str, str]] | None:
    """Ray runtime environment that empties variables named like a secret (HF_TOKEN, ...); None if there are none.

    Ray's own token stays, since an actor needs it to reach its cluster. The sandboxed programs get an empty environment in any
    case (``grader/process.py``); this is an additional layer.
    """
    emptied = {
        name: ""
        for name in environment
        if name.upper().endswith(SECRET_ENDINGS) and not name.upper().startswith("RAY_")
    }
    return {"env_vars": emptied} if emptied else None
