"""Grading with plain processes, the baseline of the grader benchmark.

It has no sandbox and no result per assert, and it finds at most one type error.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from cluster.types import Problem
from grader.signature import given_definitions

# The grader's stack limit. With OCaml 5's default, a stack overflow takes a second and a gigabyte.
ENVIRONMENT = {**os.environ, "OCAMLRUNPARAM": "l=1M"}
# The processes need some milliseconds. A compiler always ends, but it may take long on a busy machine.
COMPILER_DEADLINE_SECONDS = 60.0
PROGRAM_DEADLINE_SECONDS = 2.0


def solution_source(problem: Problem, completion: str) -> str:
    """Return the definitions of the statement and the completion as one program."""
    return f"{given_definitions(problem.statement)}\n{completion}\n"


def _run(command: list[str], folder: Path, deadline_seconds: float = COMPILER_DEADLINE_SECONDS) -> tuple[int, str]:
    """Return exit status and stderr; the status is -1 after a timeout."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=deadline_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, "timeout"
    return done.returncode, done.stderr.decode(errors="replace")


def _error_kind(message: str) -> str:
    return "syntax_error" if "Syntax error" in message or "not terminated" in message else "type_error"


def _outcome(status: int, message: str) -> str:
    if status == 0:
        return "right"
    if status == -1:
        return "timeout"
    return "stack_overflow" if "Stack_overflow" in message or "Stack overflow" in message else "wrong"


class ThreeProcesses:
    """Baseline of three processes per completion, in a new folder: ``ocamlc -c``, ``ocamlc -o`` and the program."""

    def grade(self, problem: Problem, completion: str) -> str:
        """Return the kind of a completion, as in ``benchmarks.mix``, or ``timeout``."""
        source = solution_source(problem, completion)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "solution.ml").write_text(source, encoding="utf-8")
            status, message = _run(["ocamlc", "-w", "-a", "-c", "solution.ml"], folder)
            if status != 0:
                return _error_kind(message)
            (folder / "program.ml").write_text(f"{source}\n{problem.tests}\n", encoding="utf-8")
            status, message = _run(["ocamlc", "-w", "-a", "-o", "program", "program.ml"], folder)
            if status != 0:
                return _error_kind(message)
            return _outcome(*_run(["./program"], folder, PROGRAM_DEADLINE_SECONDS))


class OneCompiler:
    """Baseline of two processes per completion, in one folder in memory: ``ocamlc -o`` and the program."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(prefix="bench-grader-", dir=memory if memory.is_dir() else None))

    def grade(self, problem: Problem, completion: str) -> str:
        """Return the kind of a completion, as in ``benchmarks.mix``, or ``timeout``."""
        source = f"{solution_source(problem, completion)}\n{problem.tests}\n"
        (self._folder / "program.ml").write_text(source, encoding="utf-8")
        status, message = _run(["ocamlc", "-w", "-a", "-o", "program", "program.ml"], self._folder)
        if status != 0:
            return _error_kind(message)
        return _outcome(*_run(["./program"], self._folder, PROGRAM_DEADLINE_SECONDS))

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "OneCompiler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
