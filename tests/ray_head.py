"""A separate Ray head, started by ``ray start --head``, for the tests of jobs."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
START_SECONDS, CALL_SECONDS = 180.0, 420.0  # for machines that are busy with other work
ATTEMPTS = 4  # Ray 2.60 gives a head 30 s to start, which a busy machine may exceed


@dataclass(frozen=True)
class Head:
    process: subprocess.Popen[bytes]
    environment: dict[str, str]  # for clients
    folder: Path  # Ray's temporary folder
    token: str

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=CALL_SECONDS, env=self.environment, cwd=ROOT, check=False
        )

    def processes(self, *parts: str) -> list[psutil.Process]:
        """Return the processes of the cluster whose command line contains one of the parts."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if any(part in line for part in parts):
                found.append(process)
        return found


@contextmanager
def started_head(extra: dict[str, str]) -> Iterator[Head]:
    """Start a head that requires a token, with ``extra`` added to its environment, and remove it after the block."""
    for attempt in range(1, ATTEMPTS + 1):
        folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short, since paths of sockets must be short
        try:
            if head := _start(folder, extra):
                yield head
                return
            assert attempt < ATTEMPTS, (folder / "start.log").read_text()
        finally:
            _end_all_in(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, extra: dict[str, str]) -> Head | None:
    """Start a head; return None if Ray does not start in time."""
    token, dashboard = secrets.token_hex(32), _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | extra
    environment |= {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    ports = [f"--{name}={_free_port()}" for name in ("port", "dashboard-agent-listen-port", "ray-client-server-port")]
    ports += [f"--dashboard-port={dashboard}", "--min-worker-port=0", "--max-worker-port=0"]
    log = folder / "start.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(BIN / "ray"), "start", "--head", "--block", *ports, f"--temp-dir={folder}", "--num-cpus=2"],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**environment, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"},
            cwd=folder,
        )
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if "Ray runtime started" in log.read_text():
            environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
            return Head(process, environment, folder=folder, token=token)
        time.sleep(0.5)
    return None


def _end_all_in(folder: Path) -> None:
    """End every process with this folder in its command line, and its children."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            try:
                found += [process, *process.children(recursive=True)]
            except psutil.Error:
                continue
    for process in found:
        try:
            process.terminate()
        except psutil.Error:
            continue
    _, alive = psutil.wait_procs(found, timeout=120)
    for process in alive:
        process.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
