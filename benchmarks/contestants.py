"""Contestants of a benchmark: each runs in its own process, which SIGSTOP suspends between its turns.

Contestants take turns within each round, so that noise of the machine affects all of them equally. A waiting contestant is
suspended, because an idle vLLM engine or an idle Ray uses a tenth to a quarter of a core.
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

RunTurn = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Function that runs one turn: request -> measurements, both of plain values."""

START_DEADLINE_SECONDS = 300.0
STOP_DEADLINE_SECONDS = 40.0


class ContestError(Exception):
    """Failure of a contestant, which makes a comparison impossible."""


class Contestant:
    """Client of a contestant's process. Context manager: the process and its descendants end with the block."""

    def __init__(self, name: str, main: Callable[..., None], *arguments: object, log: Path) -> None:
        """Start ``main(link, *arguments)``, which calls ``link.serve``, with its output in the file ``log``."""
        self.name = name
        self._log = log
        context = multiprocessing.get_context("spawn")
        self._connection, child_connection = context.Pipe()
        self._process = context.Process(target=_run, args=(child_connection, log, main, arguments), name=name)
        self._process.start()
        child_connection.close()

    def wait_until_ready(self) -> None:
        """Wait until the contestant is ready, then suspend it. Raises ContestError if it fails to start."""
        self._receive(START_DEADLINE_SECONDS)
        self._signal(signal.SIGSTOP)

    def run_turn(self, deadline_seconds: float, **turn: Any) -> Mapping[str, Any]:
        """Run one turn; return its measurements and the ``cpu_seconds`` of the contestant's processes."""
        before = self._cpu_seconds()
        self._signal(signal.SIGCONT)  # before send(), which blocks on a long request until the contestant reads it
        self._connection.send(turn)
        result = self._receive(deadline_seconds)
        self._signal(signal.SIGSTOP)
        return {**result, "cpu_seconds": self._cpu_seconds() - before}

    def close(self) -> None:
        """End the process and all its descendants."""
        processes = self._processes()
        self._signal(signal.SIGCONT)
        self._connection.close()  # makes serve() return
        self._process.join(STOP_DEADLINE_SECONDS)
        for process in psutil.wait_procs(processes, timeout=5)[1]:
            process.kill()

    def _processes(self) -> list[psutil.Process]:
        """Return the process and its descendants."""
        try:
            main = psutil.Process(self._process.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: int) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _cpu_seconds(self) -> float:
        """Return the CPU seconds of the processes and their reaped children; resolution 10 ms."""
        total = 0.0
        for process in self._processes():
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
            if not self._connection.poll(deadline_seconds):
                raise ContestError(f"{self.name} did not answer within {deadline_seconds:g} s; see {self._log}")
            answer: Mapping[str, Any] = self._connection.recv()
        except EOFError:
            raise ContestError(f"{self.name} ended; see {self._log}") from None
        if "error" in answer:
            raise ContestError(f"{self.name} failed: {answer['error']}; see {self._log}")
        return answer


class Link:
    """Connection to the benchmark, in the contestant's process."""

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
        """Send the measurements of a turn, or an empty mapping to report ready."""
        self._connection.send(result)

    def serve(self, run_turn: RunTurn) -> None:
        """Report ready, then run every requested turn until the connection closes."""
        self.send({})
        while (turn := self.receive()) is not None:
            self.send(run_turn(turn))


def _run(connection: Connection, log: Path, main: Callable[..., None], arguments: Sequence[object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the benchmark closes its contestants
    with log.open("w") as file:
        for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(file.fileno(), descriptor)
    link = Link(connection)
    try:
        main(link, *arguments)
    except Exception as error:  # noqa: BLE001 - process boundary: the error is sent to the benchmark
        traceback.print_exc()
        link.send({"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"})
