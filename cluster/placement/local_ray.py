"""A Ray cluster on this machine: its start, cores, a folder with short enough socket paths, a token."""

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import ResourcesError

MAX_SOCKET_BYTES = 107
"""Linux limits the path of a socket to this length."""

LONGEST_PATH = "/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1234"
"""The longest path that Ray creates in its folder."""

MAX_STARTS = 3
"""Number of starts of Ray to try. On a busy machine its raylet dies if agents need more than 15 s (ray-project/ray#65983)."""

OTHER_FOLDERS = (Path("/tmp/ray"), Path("/var/tmp/ray"), Path("/dev/shm/ray"))


def start_ray(log: Callable[[str], None] = lambda _line: None, **arguments: Any) -> Any:
    """Start Ray on this machine with the arguments of ``ray.init`` and return its context; try again if it is too slow.

    Raises what ``ray.init`` raises, a plain Exception if the last start is too slow as well.
    """
    import ray

    this_process = psutil.Process()
    attempt = 0
    while True:
        attempt += 1
        others = set(this_process.children(recursive=True))
        try:
            return ray.init(address="local", **arguments)
        except Exception as error:
            # A failed start leaves its processes running until this process ends.
            for process in set(this_process.children(recursive=True)) - others:
                process.kill()
            ray.shutdown()
            if attempt == MAX_STARTS or "timed out during startup" not in str(error):
                raise
            log(f"Ray did not start in time on this busy machine: trying again ({attempt + 1} of {MAX_STARTS})")


def temporary_folder(log: Callable[[str], None], others: Sequence[Path] = OTHER_FOLDERS) -> Path:
    """The folder of Ray's files: the default, or the first usable one of ``others``, which ``log`` then names.

    Raises ResourcesError if none is usable.
    """
    from ray._common.utils import get_default_ray_temp_dir

    default = Path(get_default_ray_temp_dir())
    own = [folder.with_name(f"ray-{os.getuid()}") for folder in others]  # for when the folder belongs to another user
    reasons: dict[Path, str] = {}
    chosen = None
    for folder in dict.fromkeys((default, *others, *own)):
        reason = _refusal(folder)
        if reason is None:
            chosen = folder
            break
        reasons[folder] = reason
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if name in os.environ), "the default")
    if chosen is None:
        raise ResourcesError(
            f"Ray has no folder for its files: {'; '.join(f'{folder} {reason}' for folder, reason in reasons.items())}. "
            "Set RAY_TMPDIR to a short path that can be written"
        )
    if chosen != default:
        log(
            f"Ray's files are in {chosen}: {default} ({variable}) {reasons[default]}. Set RAY_TMPDIR to choose another folder"
        )
    return chosen


def _refusal(folder: Path) -> str | None:
    too_long = len(os.fsencode(folder)) + len(LONGEST_PATH) - MAX_SOCKET_BYTES
    if too_long > 0:
        return f"is {too_long} characters too long for the sockets in it"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"cannot be written ({(error.strerror or str(error)).lower()})"
    return None


def provide_token() -> None:
    """Create a token for the cluster that is started; it is kept in the environment if the home folder cannot be written."""
    from ray._private.authentication.authentication_token_setup import (
        AuthenticationTokenLoader,
        generate_and_save_token,
    )

    loader = AuthenticationTokenLoader.instance()
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or loader.has_token(ignore_auth_mode=True):
        return
    try:
        generate_and_save_token()
    except (OSError, RuntimeError):  # the home folder is missing or read-only; Ray itself would end with a traceback
        os.environ["RAY_AUTH_TOKEN"] = uuid.uuid4().hex
    loader.reset_cache()
