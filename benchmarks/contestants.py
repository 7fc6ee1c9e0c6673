"""Contestants of a benchmark, each in a process of its own that is stopped until it is its turn.

So their rounds can alternate, the machine's noise hits all alike, and none takes cores from another: an idle vLLM engine
and an idle Ray keep a tenth to a quarter of a core busy with waiting.
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
"""What a contestant does when it is its turn: from what is asked to what it measured, both of plain values."""

START_SECONDS = 300.0
STOP_SECONDS = 40.0


class ContestError(Exception):
    """A contestant failed, so that there is nothing to compare."""


class Contestant:
    """One process that answers turns; a context manager that leaves no process behind."""

    def __init__(self, name: str, main: Callable[..., None], *arguments: object, log: Path) -> None:
        """Start ``main(link, *arguments)``; it calls ``Link.serve``. What it prints goes to ``log``."""
        self.name = name
        self._log = log
        context = multiprocessing.get_context("spawn")
        self._link, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, log, main, arguments), name=name)
        self._process.start()
        theirs.close()

    def wait_until_ready(self) -> None:
        """Return once it serves, and stop it; raises ContestError where it does not come so far."""
        self._receive(START_SECONDS)
        self._signal(signal.SIGSTOP)

    def play(self, deadline_seconds: float, **turn: Any) -> Mapping[str, Any]:
        """One turn; the result has ``cpu_seconds`` of all its processes besides what it measured itself."""
        before = self._cpu_seconds()
        self._signal(signal.SIGCONT)  # first: a long turn is sent only as fast as it is read
        self._link.send(turn)
        result = self._receive(deadline_seconds)
        self._signal(signal.SIGSTOP)
        return {**result, "cpu_seconds": self._cpu_seconds() - before}

    def close(self) -> None:
        """End it and whatever it started."""
        family = self._family()
        self._signal(signal.SIGCONT)
        self._link.close()  # at which serve() returns
        self._process.join(STOP_SECONDS)
        for process in psutil.wait_procs(family, timeout=5)[1]:
            process.kill()

    def _family(self) -> list[psutil.Process]:
        """Its process and all that live below it."""
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
        """CPU seconds of its processes and of what they have reaped, in ticks of 10 ms each."""
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
    """The contestant's end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def receive(self) -> Mapping[str, Any] | None:
        """Wait for the next turn; None when there will be none."""
        try:
            turn: Mapping[str, Any] = self._connection.recv()
        except EOFError:
            return None
        return turn

    def send(self, result: Mapping[str, Any]) -> None:
        """Answer a turn, or say that one is ready."""
        self._connection.send(result)

    def serve(self, play: Play) -> None:
        """Say that one is ready, and play whenever asked, until nobody asks any more."""
        self.send({})
        while (turn := self.receive()) is not None:
            self.send(play(turn))


def _run(connection: Connection, log: Path, main: Callable[..., None], arguments: Sequence[object]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the one who asks, and that ends the contestants
    with log.open("w") as file:
        for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(file.fileno(), descriptor)
    link = Link(connection)
    try:
        main(link, *arguments)
    except Exception as error:  # noqa: BLE001 - the boundary of a process: whoever waits outside is told
        traceback.print_exc()
        link.send({"error": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"})
