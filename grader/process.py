"""The only door to other processes: commands that end, and contained servers that are always reaped.

What contains a server stands in ``grader/walls.py``.
"""

import contextlib
import os
import select
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from cluster.types import DeadlineExceeded, SandboxError, UngradableError
from grader import wire
from grader.walls import (
    KERNEL_WALLS,
    LIMITS_REFUSED,
    Limits,
    Program,
    Walls,
    bubblewrap_options,
    limit_script,
    unprivileged_user_id,
)

_PIPE_CHUNK = 1 << 16
_PROBE_MEMORY_MIB = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a command ended."""

    status: int
    output: str  # stdout and stderr together


def run_command(
    command: Sequence[str], *, deadline_seconds: float, folder: Path | None = None, as_nobody: bool = False
) -> Finished:
    """Run a trusted command to its end.

    Raises FileNotFoundError where there is no such program and DeadlineExceeded where it takes too long.
    """
    user = unprivileged_user_id() if as_nobody else None
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=deadline_seconds,
            cwd=folder,
            check=False,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(f"{command[0]} took more than {deadline_seconds:g} s") from error
    return Finished(status=done.returncode, output=done.stdout.decode(errors="replace"))


def probe_walls(*, require_sandbox: bool, runner: Program | None = None) -> Walls:
    """Find out which walls stand: bubblewrap is tried, and ``runner``, started behind it, says which the kernel gives.

    Raises SandboxError where a sandbox is required and bubblewrap or seccomp does not stand, or the runner does not start.
    """
    walls = _probe_bubblewrap()
    if runner is not None:
        walls = replace(walls, kernel=_kernel_walls(runner, walls))
    if require_sandbox and not walls.sandboxed:
        raise SandboxError(
            f"a sandbox is required, and these walls do not stand: {', '.join(walls.missing)}. Install bubblewrap (bwrap), "
            "allow user namespaces (sysctl user.max_user_namespaces, or the container's own settings) and the seccomp system "
            "call on x86-64 or aarch64; or do not require it (--require-sandbox, grader.require_sandbox)"
        )
    return walls


def _probe_bubblewrap() -> Walls:
    found = shutil.which("bwrap")
    if found is None:
        return Walls(bubblewrap=None, why_no_bubblewrap="bwrap is not installed")
    libraries = tuple(path for path in map(Path, ("/usr", "/lib", "/lib64")) if path.exists())
    probe = [found, *bubblewrap_options(libraries), "--", shutil.which("true") or "/bin/true"]
    try:
        done = run_command(probe, deadline_seconds=20, folder=Path("/"), as_nobody=True)
    except (OSError, DeadlineExceeded) as error:
        return Walls(bubblewrap=None, why_no_bubblewrap=f"it does not run here: {error}")
    if done.status != 0:
        return Walls(bubblewrap=None, why_no_bubblewrap=f"it does not work here: {done.output.strip()[:200]}")
    return Walls(bubblewrap=Path(found))


def _kernel_walls(runner: Program, walls: Walls) -> tuple[str, ...]:
    try:
        with Server(runner, Limits(memory_mib=_PROBE_MEMORY_MIB), walls) as server:
            named = server.greeting[-1].decode().split()
    except (UngradableError, DeadlineExceeded) as error:
        raise SandboxError(f"behind the walls of this machine no grading process starts: {error}") from error
    return tuple(wall for wall in KERNEL_WALLS if wall in named)


_FOLDER_PREFIX = "caravan-grader-"
_FOLDER_NEEDED_SECONDS = 60.0


def _throw_away_folder() -> Path:
    """A new folder in memory where there is such a place, else under TMPDIR; others may enter, not write."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    _sweep(parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=parent))
        folder.chmod(0o755)
    except OSError as error:
        raise UngradableError(f"no place for a grading process: {error}") from error
    return folder


def _sweep(parent: Path) -> None:
    """Remove the folders of graders that were killed while they started; a living one needs its own for a moment only."""
    for folder in parent.glob(f"{_FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _FOLDER_NEEDED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


class Server:
    """One contained process that answers one request at a time over its standard pipes."""

    def __init__(self, program: Program, limits: Limits, walls: Walls, *, start_seconds: float = 30.0) -> None:
        """Start it and wait for its greeting; UngradableError or DeadlineExceeded where it does not come."""
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""  # of what comes next
        self._folder = _throw_away_folder()
        try:
            command = [str(self._reachable(path)) for path in (program.path, program.companion) if path is not None]
            self._process = self._spawn(program, command, limits, walls)
            self.greeting = self._receive(time.monotonic() + start_seconds)
        except OSError as error:
            self.close()
            raise UngradableError(f"a grading process cannot be started: {error}") from error
        except UngradableError as error:
            status = self.close()
            if status == LIMITS_REFUSED:
                raise UngradableError(
                    "the limits of a grading process cannot be set: is a hard limit of this user lower (ulimit -Ha)?"
                ) from error
            raise
        except BaseException:
            self.close()
            raise
        # Both programs have read what they need: with the folder gone now, nothing stays behind even if we are killed.
        shutil.rmtree(self._folder, ignore_errors=True)

    def _reachable(self, path: Path) -> Path:
        """The file where the server's user can enter: itself, or a copy in the throw-away folder."""
        reachable = all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.resolve().parents))
        if unprivileged_user_id() is None or reachable:
            return path
        copied = Path(shutil.copyfile(path, self._folder / path.name))
        copied.chmod(0o555)
        return copied

    def _spawn(self, program: Program, command: list[str], limits: Limits, walls: Walls) -> subprocess.Popen[bytes]:
        environment = dict(program.environment or {})
        if walls.bubblewrap is not None:
            options = bubblewrap_options([*program.libraries, *program.readable, *map(Path, command)])
            for key, value in environment.items():
                options += ["--setenv", key, value]
            command = [str(walls.bubblewrap), *options, "--", *command]
        user = unprivileged_user_id()
        # The shell sets the limits and becomes the program: code between fork and exec in a threaded Python is unsafe.
        limited = ["/bin/sh", "-c", f'{limit_script(limits)}; exec "$@"', "sh", *command]
        return subprocess.Popen(
            limited,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/" if walls.bubblewrap else self._folder,
            env=environment,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            bufsize=0,
        )

    def ask(self, fields: Sequence[bytes], *, deadline_seconds: float) -> list[bytes]:
        """Send a request and wait for the answer.

        Raises DeadlineExceeded, or UngradableError where the server died; either way it is of no use any more.
        """
        deadline = time.monotonic() + deadline_seconds
        self._send(wire.encode(fields), deadline)
        return self._receive(deadline)

    @property
    def pid(self) -> int | None:
        """Process id of the outermost process, None when closed."""
        return None if self._process is None else self._process.pid

    def _send(self, frame: bytes, deadline: float) -> None:
        pipe = self._pipes()[0]
        view = memoryview(frame)
        while view:
            _, ready, _ = select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise DeadlineExceeded("a grading process does not take in its request")
            try:
                view = view[os.write(pipe, view[:_PIPE_CHUNK]) :]
            except BrokenPipeError as error:
                raise UngradableError("a grading process has died") from error

    def _receive(self, deadline: float) -> list[bytes]:
        while len(self._received) < wire.HEADER_BYTES:
            self._received += self._read(deadline)
        length = wire.payload_length(self._received[: wire.HEADER_BYTES])
        if length > wire.MAX_FRAME_BYTES:
            raise UngradableError(f"a grading process announces an answer of {length} bytes")
        parts = [self._received]
        missing = wire.HEADER_BYTES + length - len(self._received)
        while missing > 0:
            parts.append(self._read(deadline))
            missing -= len(parts[-1])
        frame = b"".join(parts)
        end = wire.HEADER_BYTES + length
        self._received = frame[end:]
        return wire.decode(frame[wire.HEADER_BYTES : end])

    def _read(self, deadline: float) -> bytes:
        pipe = self._pipes()[1]
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise DeadlineExceeded("a grading process does not answer")
        part = os.read(pipe, _PIPE_CHUNK)
        if not part:
            raise UngradableError("a grading process has died")
        return part

    def _pipes(self) -> tuple[int, int]:
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            raise UngradableError("the grading process is closed")
        return self._process.stdin.fileno(), self._process.stdout.fileno()

    def close(self) -> int | None:
        """Kill the whole process group, reap it and remove its folder; returns its exit status. May be called twice."""
        process, self._process = self._process, None
        status = None
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            status = process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        return status

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
