"""What a grader's process does not get to see of its machine's environment."""

from collections.abc import Mapping

SECRET_ENDINGS = ("_TOKEN", "_KEY", "_SECRET", "_PASSWORD")


def without_secrets(environment: Mapping[str, str]) -> dict[str, dict[str, str]] | None:
    """Ray's runtime environment that empties what is named like a secret (HF_TOKEN, WANDB_API_KEY, ...); None where nothing is.

    Ray's own token stays: without it an actor does not reach its cluster. The programs behind the walls get an empty environment
    in any case (``grader/process.py``); this is one more wall before it.
    """
    emptied = {
        name: ""
        for name in environment
        if name.upper().endswith(SECRET_ENDINGS) and not name.upper().startswith("RAY_")
    }
    return {"env_vars": emptied} if emptied else None
