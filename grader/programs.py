"""Folders that the grader's OCaml programs can be kept in and run from, for all graders of a machine.

A folder is usable where the user that runs the programs can enter it, the kernel executes a file in it, and nobody but its
owner and root can change what lies there. Whether it executes is found by trying: mount options, security modules and user
namespaces all have a say.
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
DIGESTS = "digests"  # of the programs of a build, which is whole where they are right
MACHINE_CACHE = Path("/var/cache/caravan")  # root's; what an image was built with is found here by every user
ROOM_BYTES = 40 * 1024**2  # a build takes 30 MiB on its way
PROBE_SECONDS = 60.0
CHOICE = "set XDG_CACHE_HOME to a folder"


class _Unusable(Exception):
    """A reason why programs cannot be kept in a folder or run from it."""


def candidate_folders() -> list[Path]:
    """Folders to try, in this order: the user's cache, the machine's, those for temporary files, shared memory."""
    base = os.environ.get("XDG_CACHE_HOME")
    folders = []
    if base:
        folders.append(Path(base) / "caravan")
    else:
        with contextlib.suppress(RuntimeError):  # a user id that has neither HOME nor an entry in the password file
            folders.append(Path.home() / ".cache" / "caravan")
    folders.append(MACHINE_CACHE)
    temporary = [Path(os.environ["TMPDIR"])] if os.environ.get("TMPDIR") else []
    own = f"caravan-{os.geteuid()}"
    folders += [parent / own for parent in (*temporary, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))]
    return list(dict.fromkeys(folders))


def programs_in_first_usable(folders: Sequence[Path], name: str, build: Callable[[Path], None]) -> Path:
    """Return the folder ``name`` with both programs, in the first of ``folders`` that they can run from.

    Where they are not there yet, or damaged, ``build`` is called with an empty folder to put them into; of several processes
    that need them, one builds. Raises ToolchainError with a reason for each folder where none is usable.
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
    to_whom = "that every user may enter" if unprivileged_user_id() is not None else "of your own"
    raise ToolchainError(
        f"the grader's OCaml programs can run from none of these folders: {listed}. Way out: {CHOICE} {to_whom}, "
        "on a mount without noexec"
    )


def _programs_in(folder: Path, name: str, build: Callable[[Path], None]) -> Path:
    is_link_of = folder.lstat().st_uid if folder.is_symlink() else None
    folder = folder.resolve()
    if is_link_of not in (None, 0, os.geteuid()):
        raise _Unusable(f"it is a link made by user {is_link_of}")
    _require_enterable(folder)
    _require_own(folder)
    programs = folder / name
    if not _is_whole(programs):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        _require_own(folder)
        with _sole_access(folder):
            if not _is_whole(programs):
                _build_in(folder, programs, build)
    _require_executed(programs / PROGRAMS[-1])
    return programs


def _build_in(folder: Path, programs: Path, build: Callable[[Path], None]) -> None:
    """Build beside ``programs`` and move the result there in one step, whole or not at all. Called with sole access."""
    for abandoned in folder.glob("build-*"):  # by a process that was killed
        shutil.rmtree(abandoned, ignore_errors=True)
    free = shutil.disk_usage(folder).free
    if free < ROOM_BYTES:
        raise _Unusable(f"{free >> 20} MiB are free on {_mount_of(folder)[0]}, building takes {ROOM_BYTES >> 20}")
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as workplace:
        Path(workplace).chmod(0o755)
        # A script, as it costs nothing; written by another process, as a file that any thread of this one still holds open
        # while it forks cannot be executed.
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
        if programs.exists():  # a damaged one; graders that run keep what they have open
            programs.rename(Path(workplace) / "damaged")
        finished.rename(programs)


@contextmanager
def _sole_access(folder: Path) -> Iterator[None]:
    with (folder / "building").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_whole(programs: Path) -> bool:
    """Whether both programs lie there as they were built; raises _Unusable where somebody else could have put them there."""
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
    """Refuse, as a ToolchainError, what the user that runs the programs cannot get to."""
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
    """Refuse a place of which somebody other than this user and root could change what lies there.

    Of folders above it a sticky one is as good, and one of the user's own group. In a user namespace root's own files may
    belong to an unknown user: that is whom / belongs to.
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
        kept_apart = is_above and status.st_mode & stat.S_ISVTX
        if status.st_mode & stat.S_IWOTH and not kept_apart:
            raise _Unusable(f"every user may write to {place}, and could put other programs there")
        if status.st_mode & stat.S_IWGRP and not kept_apart and status.st_gid not in (0, os.getegid()):
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
    """An error with the mount option that accounts for it, where one does."""
    reason = error.strerror or str(error)
    point, options = _mount_of(folder)
    accounting = [option for option in ("noexec", "ro") if option in options]
    return f"{reason} ({point} is mounted {', '.join(accounting)})" if accounting else reason


def _mount_of(path: Path) -> tuple[Path, Sequence[str]]:
    """The mount point that a path lies below, and its options. From the kernel's table: bind mounts look like folders."""
    found: tuple[Path, Sequence[str]] = (Path("/"), ())
    table = Path("/proc/self/mountinfo")
    for line in table.read_text(errors="surrogateescape").splitlines() if table.exists() else ():
        escaped, options = line.split()[4:6]
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), escaped))
        if path.is_relative_to(point) and len(point.parts) >= len(found[0].parts):  # the last of several is on top
            found = point, options.split(",")
    return found
