"""Contestants of a benchmark, each in its own process that is stopped (SIGSTOP) except during its turns.

Rounds can alternate, so that noise of the machine affects all alike, and a waiting contestant uses no CPU: an idle vLLM engine
and an idle Ray take a tenth to a quarter of a core.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

Play = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""One turn of a contestant: request -> measurements, both plain values."""

START_SECONDS = 300.0
STOP_SECONDS = 40.0


class ContestError(Exception):
    """Failure of a contestant; the comparison is impossible."""


class Contestant:
    """Process that plays turns; a context manager that leaves no process behind."""

    def __init__(self, name: str, main: Callable[..., None], *arguments: object, log: Path) -> None:
        """Start ``main(link, *arguments)``; it calls ``Link.serve``. Its output goes to the file ``log``."""
        self.name = name
        self._log = log
        context = multiprocessing.get_context("spawn")
        self._link, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, log, main, arguments), name=name)
        self._process.start()
        theirs.close()

    def wait_until_ready(self) -> None:
        """Wait until it serves, then stop it. Raises ContestError if it fails before."""
        self._receive(START_SECONDS)
        self._signal(signal.SIGSTOP)

    def play(self, deadline_seconds: float, **turn: Any) -> Mapping[str, Any]:
        """Play one turn. Returns its measurements and ``cpu_seconds`` of all its processes."""
        before = self._cpu_seconds()
        self._signal(signal.SIGCONT)  # before sending: a long request is sent only as fast as it is read
        self._link.send(turn)
        result = self._receive(deadline_seconds)
        self._signal(signal.SIGSTOP)
        return {**result, "cpu_seconds": self._cpu_seconds() - before}

    def close(self) -> None:
        """End the process and all its descendants."""
        family = self._family()
        self._signal(signal.SIGCONT)
        self._link.close()  # makes serve() return
        self._process.join(STOP_SECONDS)
        for process in psutil.wait_procs(family, timeout=5)[1]:
            process.kill()

    def _family(self) -> list[psutil.Process]:
        """Return the process and its descendants."""
        try:
            main = psutil.Process(self._process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: int) -> None:
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _cpu_seconds(self) -> float:
        """Return CPU seconds of its processes and of their reaped children, in ticks of 10 ms."""
        total = 0.0
        for process in self._family():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def __enter__(self) -> "Contestant":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receive(self, deadline_seconds: float) -> Mapping[str, Any]:
        try:
            if not self._link.poll(deadline_seconds):
                raise ContestError(f"{self.name} did not answer within {deadline_seconds:g} s; see {self._log}")
            answer: Mapping[str, Any] = self._link.recv()
        except EOFError:
            raise ContestError(f"{self.name} ended; see {self._log}") from None
        if "error" in answer:
            raise ContestError(f"{self.name} failed: {answer['error']}; see {self._log}")
        return answer


class Link:
    """The contestant's end of the connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def receive(self) -> Mapping[str, Any] | None:
        """Wait for the next request; None after the last one."""
        try:
            turn: Mapping[str, Any] = self._connection.recv()
        except EOFError:
            return None
        return turn

    def send(self, result: Mapping[str, Any]) -> None:
        """Send measurements, or an empty answer when ready."""
        self._connection.send(result)

    def serve(self, play: Play) -> None:
        """Report ready, then play every requested turn until the connection closes."""
        self.send({})
        while (turn := self.receive()) is not None:
            self.send(play(turn))


def _run(connection: Connection, log: Path, main: Callable[..., None], arguments: Sequence[object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the benchmark, which ends its contestants
    with log.open("w") as file:
        for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(file.fileno(), descriptor)
    link = Link(connection)
    try:
        main(link, *arguments)
    except Exception as error:  # noqa: BLE001 - process boundary: the error is sent to the benchmark
        traceback.print_exc()
        link.send({"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"})
