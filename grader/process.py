"""The only module that starts processes: trusted commands, and sandboxed servers that are always reaped.

``grader/sandbox.py`` describes the sandbox of a server.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from cluster.errors import DeadlineExceeded, SandboxError, UngradableError
from grader import frames
from grader.sandbox import (
    KERNEL_LAYERS,
    LIMITS_REFUSED,
    Limits,
    Program,
    Sandbox,
    bubblewrap_options,
    limit_script,
    unprivileged_user_id,
)

_PIPE_CHUNK = 1 << 16
_PROBE_MEMORY_MIB = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The result of a command."""

    status: int
    output: str  # stdout and stderr together


def run_command(
    command: Sequence[str],
    *,
    deadline_seconds: float,
    folder: Path | None = None,
    as_nobody: bool = False,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a trusted command to its end, with ``environment`` added to this process's.

    Raises FileNotFoundError if there is no such program, DeadlineExceeded if it takes too long.
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
            env=None if environment is None else {**os.environ, **environment},
            check=False,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(f"{command[0]} took more than {deadline_seconds:g} s") from error
    return Finished(status=done.returncode, output=done.stdout.decode(errors="replace"))


def probe_sandbox(*, require_sandbox: bool, runner: Program | None = None) -> Sandbox:
    """Find out which layers work: try bubblewrap, and start ``runner`` in it, which reports the kernel's layers.

    Raises SandboxError if a sandbox is required and bubblewrap or seccomp is missing, or if the runner does not start.
    """
    sandbox = _probe_bubblewrap()
    if runner is not None:
        sandbox = replace(sandbox, kernel=_kernel_layers(runner, sandbox))
    if require_sandbox and not sandbox.sandboxed:
        raise SandboxError(
            f"a sandbox is required, and these layers are missing: {', '.join(sandbox.missing)}. Install bubblewrap (bwrap), "
            "allow user namespaces (sysctl user.max_user_namespaces, or the container's own settings) and the seccomp system "
            "call on x86-64 or aarch64; or do not require it (--require-sandbox, grader.require_sandbox)"
        )
    return sandbox


def _probe_bubblewrap() -> Sandbox:
    found = shutil.which("bwrap")
    if found is None:
        return Sandbox(bubblewrap=None, why_no_bubblewrap="bwrap is not installed")
    libraries = tuple(path for path in map(Path, ("/usr", "/lib", "/lib64")) if path.exists())
    probe = [found, *bubblewrap_options(libraries), "--", shutil.which("true") or "/bin/true"]
    try:
        done = run_command(probe, deadline_seconds=20, folder=Path("/"), as_nobody=True)
    except (OSError, DeadlineExceeded) as error:
        return Sandbox(bubblewrap=None, why_no_bubblewrap=f"it does not run here: {error}")
    if done.status != 0:
        return Sandbox(bubblewrap=None, why_no_bubblewrap=f"it does not work here: {done.output.strip()[:200]}")
    return Sandbox(bubblewrap=Path(found))


def _kernel_layers(runner: Program, sandbox: Sandbox) -> tuple[str, ...]:
    try:
        with Server(runner, Limits(memory_mib=_PROBE_MEMORY_MIB), sandbox) as server:
            reported = server.greeting[-1].decode().split()
    except (UngradableError, DeadlineExceeded) as error:
        raise SandboxError(f"no grading process starts in the sandbox of this machine: {error}") from error
    return tuple(layer for layer in KERNEL_LAYERS if layer in reported)


def _sandboxed_command(program: Program, limits: Limits, sandbox: Sandbox) -> list[str]:
    """Command line that sets the limits, then starts bubblewrap if it works, and becomes the program."""
    command = [str(path) for path in (program.path, program.companion) if path is not None]
    if sandbox.bubblewrap is not None:
        options = bubblewrap_options([*program.libraries, *program.readable, *map(Path, command)])
        for key, value in (program.environment or {}).items():
            options += ["--setenv", key, value]
        command = [str(sandbox.bubblewrap), *options, "--", *command]
    # The shell sets the limits and becomes the program: running code between fork and exec in a threaded Python is unsafe.
    return ["/bin/sh", "-c", f'{limit_script(limits)}; exec "$@"', "sh", *command]


def _start_failure(command: Sequence[str], status: int | None) -> str:
    """Restart a program that ended before its greeting, and return an error message with the restarted program's output."""
    if status == LIMITS_REFUSED:
        return "the limits of a grading process cannot be set: is a hard limit of this user lower (ulimit -Ha)?"
    try:
        again = run_command(command, deadline_seconds=30.0, folder=Path("/"), as_nobody=True)
        output = "but a second one starts" if again.status == 0 else " ".join(again.output.split())
    except (OSError, DeadlineExceeded) as error:
        output = str(error)
    return f"a grading process does not start: it ends with status {status} ({output[-300:] or 'no output'})"


class StartFailed(UngradableError):
    """A grading process could not be started on this machine: other completions would fail as well."""


class Server:
    """One sandboxed process that answers one request at a time over its standard pipes."""

    def __init__(self, program: Program, limits: Limits, sandbox: Sandbox, *, start_seconds: float = 30.0) -> None:
        """Start the process and wait for its greeting; raises StartFailed or DeadlineExceeded."""
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""  # bytes of the next frame
        command = _sandboxed_command(program, limits, sandbox)
        user = unprivileged_user_id()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=dict(program.environment or {}),
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=None if user is None else [],
                bufsize=0,
            )
            self.greeting = self._receive(time.monotonic() + start_seconds)
        except OSError as error:
            self.close()
            raise StartFailed(f"a grading process cannot be started: {error}") from error
        except UngradableError as error:
            raise StartFailed(_start_failure(command, self.close())) from error
        except BaseException:
            self.close()
            raise

    def ask(self, fields: Sequence[bytes], *, deadline_seconds: float) -> list[bytes]:
        """Send a request and wait for the answer.

        Raises DeadlineExceeded, or UngradableError if the server died; after either, close the server.
        """
        deadline = time.monotonic() + deadline_seconds
        self._send(frames.encode(fields), deadline)
        return self._receive(deadline)

    @property
    def pid(self) -> int | None:
        """Process id of the outermost process; None once closed."""
        return None if self._process is None else self._process.pid

    def _send(self, frame: bytes, deadline: float) -> None:
        pipe = self._pipes()[0]
        view = memoryview(frame)
        while view:
            _, ready, _ = select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise DeadlineExceeded("a grading process does not read its request")
            try:
                view = view[os.write(pipe, view[:_PIPE_CHUNK]) :]
            except BrokenPipeError as error:
                raise UngradableError("a grading process died") from error

    def _receive(self, deadline: float) -> list[bytes]:
        while len(self._received) < frames.HEADER_BYTES:
            self._received += self._read(deadline)
        length = frames.payload_length(self._received[: frames.HEADER_BYTES])
        if length > frames.MAX_FRAME_BYTES:
            raise UngradableError(f"a grading process announces an answer of {length} bytes")
        parts = [self._received]
        missing = frames.HEADER_BYTES + length - len(self._received)
        while missing > 0:
            parts.append(self._read(deadline))
            missing -= len(parts[-1])
        frame = b"".join(parts)
        end = frames.HEADER_BYTES + length
        self._received = frame[end:]
        return frames.decode(frame[frames.HEADER_BYTES : end])

    def _read(self, deadline: float) -> bytes:
        pipe = self._pipes()[1]
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise DeadlineExceeded("a grading process does not answer")
        part = os.read(pipe, _PIPE_CHUNK)
        if not part:
            raise UngradableError("a grading process died")
        return part

    def _pipes(self) -> tuple[int, int]:
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            raise UngradableError("the grading process is closed")
        return self._process.stdin.fileno(), self._process.stdout.fileno()

    def close(self) -> int | None:
        """Kill and reap the whole process group; return its exit status. May be called twice."""
        process, self._process = self._process, None
        status = None
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            status = process.wait()
        return status

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
