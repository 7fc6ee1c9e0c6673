"""Folders to keep the grader's OCaml programs in and run them from, shared by all graders of a machine.

A folder is usable if the user that runs the programs can enter it, the kernel executes a file in it, and only its owner and
root can change its content. Execution is tested by trying: it depends on mount options, security modules and user namespaces.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import DeadlineExceeded, ToolchainError
from grader.process import run_command
from grader.sandbox import unprivileged_user_id

PROGRAMS = ("front", "runner")
DIGESTS = "digests"  # file with the digests of a build's programs; the build is complete if they match
MACHINE_CACHE = Path("/var/cache/caravan")  # owned by root; holds programs built into a container image
MIN_FREE_BYTES = 40 * 1024**2  # a build needs 30 MiB
PROBE_SECONDS = 60.0
ADVICE = "set XDG_CACHE_HOME to a folder"


class _Unusable(Exception):
    """The reason why programs cannot be kept in a folder or run from it."""


def candidate_folders() -> list[Path]:
    """Folders to try, in order: the user's cache, the machine's, folders for temporary files, shared memory."""
    base = os.environ.get("XDG_CACHE_HOME")
    folders = []
    if base:
        folders.append(Path(base) / "caravan")
    else:
        with contextlib.suppress(RuntimeError):  # neither HOME nor an entry in the password file
            folders.append(Path.home() / ".cache" / "caravan")
    folders.append(MACHINE_CACHE)
    temporary = [Path(os.environ["TMPDIR"])] if os.environ.get("TMPDIR") else []
    own = f"caravan-{os.geteuid()}"
    folders += [parent / own for parent in (*temporary, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))]
    return list(dict.fromkeys(folders))


def programs_in_first_usable(folders: Sequence[Path], name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder ``name`` with both programs, in the first usable one of ``folders``.

    If they are missing or damaged, ``build`` is called with an empty folder to write them to; only one process builds at a
    time. Raises ToolchainError with a reason for each folder if none is usable.
    """
    reasons = []
    for folder in folders:
        try:
            return _programs_in(folder, name, build)
        except _Unusable as error:
            reasons.append(f"{folder}: {error}")
        except OSError as error:
            reasons.append(f"{folder}: {_explained(error, folder)}")
    listed = "; ".join(dict.fromkeys(reasons))
    kind = "that every user may enter" if unprivileged_user_id() is not None else "of your own"
    raise ToolchainError(
        f"the grader's OCaml programs can run from none of these folders: {listed}. Way out: {ADVICE} {kind}, "
        "on a mount without noexec"
    )


def _programs_in(folder: Path, name: str, build: Callable[[Path], None]) -> Path:
    link_owner = folder.lstat().st_uid if folder.is_symlink() else None
    folder = folder.resolve()
    if link_owner not in (None, 0, os.geteuid()):
        raise _Unusable(f"it is a link made by user {link_owner}")
    _require_enterable(folder)
    _require_own(folder)
    programs = folder / name
    if not _is_complete(programs):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        _require_own(folder)
        with _locked(folder):
            if not _is_complete(programs):
                _build_in(folder, programs, build)
    _require_executed(programs / PROGRAMS[-1])
    return programs


def _build_in(folder: Path, programs: Path, build: Callable[[Path], None]) -> None:
    """Build next to ``programs`` and move the result there atomically. The caller holds the lock."""
    for orphan in folder.glob("build-*"):  # of a process that was killed
        shutil.rmtree(orphan, ignore_errors=True)
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        raise _Unusable(f"{free >> 20} MiB are free on {_mount_of(folder)[0]}, a build needs {MIN_FREE_BYTES >> 20}")
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as workplace:
        Path(workplace).chmod(0o755)
        # A script tests execution at no cost. Another process writes it: a file that a thread of this process holds open
        # while another thread forks cannot be executed.
        script = Path(workplace) / "script"
        run_command(["/bin/sh", "-c", 'echo "#!/bin/sh" >"$0" && chmod 755 "$0"', str(script)], deadline_seconds=60)
        _require_executed(script)
        finished = Path(workplace) / "finished"
        finished.mkdir()
        build(finished)
        digests = "".join(f"{_digest(finished / program)}  {program}\n" for program in PROGRAMS)
        (finished / DIGESTS).write_text(digests)
        for path in finished.iterdir():
            path.chmod(0o644 if path.name == DIGESTS else 0o755)
        finished.chmod(0o755)
        if programs.exists():  # a damaged build; running graders keep their open files
            programs.rename(Path(workplace) / "damaged")
        finished.rename(programs)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "building").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_complete(programs: Path) -> bool:
    """Return whether both programs match their digests; raises _Unusable if another user could have written them."""
    try:
        digests = (programs / DIGESTS).read_text()
        for path in (programs, *(programs / name for name in (*PROGRAMS, DIGESTS))):
            _require_own(path)
        return digests == "".join(f"{_digest(programs / name)}  {name}\n" for name in PROGRAMS)
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_enterable(path: Path, *, what: str) -> None:
    """Raise ToolchainError if the user that runs the programs cannot reach a path."""
    try:
        _require_enterable(path.resolve())
    except _Unusable as error:
        raise ToolchainError(
            f"the grader's programs cannot read {what} in {path}: {error}. Way out: install it where every user can read it, "
            "or run as another user than root"
        ) from None


def _require_enterable(path: Path) -> None:
    if unprivileged_user_id() is None:
        return
    for place in (path, *path.parents):
        if place.is_dir() and not place.stat().st_mode & stat.S_IXOTH:
            raise _Unusable(f"others may not enter {place}, and the programs of root's graders run as nobody")


def _require_own(path: Path) -> None:
    """Raise _Unusable if a user other than this one and root could change the content of a path.

    Parent folders may also be sticky, or writable for the user's own group. In a user namespace root's files may belong to an
    unknown user: the owner of / is trusted as well.
    """
    trusted = {0, os.geteuid()}
    for place in (path, *path.parents):
        try:
            status = place.lstat()
        except FileNotFoundError:
            continue
        is_above = place != path
        owners = trusted | {Path("/").stat().st_uid} if is_above else trusted
        if status.st_uid not in owners:
            raise _Unusable(f"{place} belongs to user {status.st_uid}, who could put other programs there")
        is_sticky_parent = is_above and status.st_mode & stat.S_ISVTX
        if status.st_mode & stat.S_IWOTH and not is_sticky_parent:
            raise _Unusable(f"every user may write to {place}, and could put other programs there")
        if status.st_mode & stat.S_IWGRP and not is_sticky_parent and status.st_gid not in (0, os.getegid()):
            raise _Unusable(f"group {status.st_gid} may write to {place}, and could put other programs there")


def _require_executed(program: Path) -> None:
    try:
        done = run_command([str(program)], deadline_seconds=PROBE_SECONDS, folder=Path("/"), as_nobody=True)
    except DeadlineExceeded as error:
        raise _Unusable(str(error)) from error
    except OSError as error:
        raise _Unusable(f"nothing can be executed there: {_explained(error, program.parent)}") from error
    if done.status != 0:
        raise _Unusable(f"{program.name} does not run there: {done.output.strip()[-200:] or f'status {done.status}'}")


def _explained(error: OSError, folder: Path) -> str:
    """The error's text, with the mount option that explains it if there is one."""
    reason = error.strerror or str(error)
    point, options = _mount_of(folder)
    causes = [option for option in ("noexec", "ro") if option in options]
    return f"{reason} ({point} is mounted {', '.join(causes)})" if causes else reason


def _mount_of(path: Path) -> tuple[Path, Sequence[str]]:
    """Mount point of a path and its options, from the kernel's table, since bind mounts look like folders."""
    found: tuple[Path, Sequence[str]] = (Path("/"), ())
    table = Path("/proc/self/mountinfo")
    for line in table.read_text(errors="surrogateescape").splitlines() if table.exists() else ():
        escaped, options = line.split()[4:6]
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), escaped))
        if path.is_relative_to(point) and len(point.parts) >= len(
            found[0].parts
        ):  # the last mount on a point hides earlier ones
            found = point, options.split(",")
    return found
