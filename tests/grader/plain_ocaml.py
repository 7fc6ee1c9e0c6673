"""Results of plain ``ocamlc``, the reference for the grader, as simple as possible.

There is one bytecode program per solution. Each run, in its own process, executes the assert with a given number.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cluster.types import AssertOutcome, Verdict

from .programs import Program

# Placed before the solution, so that the solution cannot shadow a name that it uses.
_CHOICE = """module Chosen__ = struct
  let number = int_of_string Sys.argv.(1)
  let is k = number = k || number = 0
  let is_later k = number > k
end
"""
_NO_ASSERT, _ALL_ASSERTS = "-1", "0"


@dataclass(frozen=True, slots=True)
class PlainResult:
    """Result of a program; ``refused`` is None if it compiles."""

    refused: Verdict | None
    asserts: tuple[AssertOutcome, ...]


def written_tests(program: Program) -> str:
    """Return the tests of a program in the form of a data set."""
    return f"let () =\n  {program.set_up}\n  " + ";\n  ".join(f"assert ({one})" for one in program.asserts) + ";\n;;"


def plain_result(program: Program, folder: Path) -> PlainResult:
    """Compile and run a program in a folder, which may be reused."""
    not_run = (AssertOutcome.NOT_RUN,) * len(program.asserts)
    head = f"{_CHOICE}{program.code}\n;;\n"
    (folder / "program.ml").write_text(head + _choosing_tests(program))
    if _ocamlc(folder, "-o", "program", "program.ml"):
        run = _Run(folder, first_test_line=head.count("\n") + 1)
        if run.outcome(_ALL_ASSERTS) is AssertOutcome.PASSED:
            return PlainResult(None, (AssertOutcome.PASSED,) * len(not_run))
        if run.outcome(_NO_ASSERT) is not AssertOutcome.PASSED:
            return PlainResult(None, not_run)
        return PlainResult(None, tuple(run.outcome(str(number)) for number in range(1, len(not_run) + 1)))
    (folder / "solution.ml").write_text(program.code)
    if not _ocamlc(folder, "-stop-after", "parsing", "solution.ml"):
        return PlainResult(Verdict.SYNTAX_ERROR, not_run)
    # -i only infers types: weak types, which the tests would determine, are no error.
    return PlainResult(Verdict.INTERFACE if _ocamlc(folder, "-i", "solution.ml") else Verdict.TYPE_ERROR, not_run)


def _choosing_tests(program: Program) -> str:
    lines = []
    for number, one in enumerate(program.asserts, start=1):
        before = (
            f" else if Chosen__.is_later {number} then (try assert ({one}) with _ -> ())" if program.in_order else ""
        )
        lines.append(f"(if Chosen__.is {number} then assert ({one}){before});")
    return f"let () =\n  {program.set_up}\n  " + "\n  ".join(lines) + "\n;;"


def _ocamlc(folder: Path, *arguments: str) -> bool:
    done = subprocess.run(["ocamlc", "-w", "-a", *arguments], cwd=folder, capture_output=True, check=False)
    return done.returncode == 0


@dataclass(frozen=True, slots=True)
class _Run:
    folder: Path
    first_test_line: int

    def outcome(self, number: str) -> AssertOutcome:
        """Run one assert."""
        limited = 'ulimit -t 1 && ulimit -c 0 && ulimit -v 1048576 && exec ./program "$1"'
        done = subprocess.run(
            ["/bin/sh", "-c", limited, "sh", number], cwd=self.folder, capture_output=True, check=False, timeout=60
        )
        if done.returncode == 0:
            return AssertOutcome.PASSED
        if done.returncode < 0:
            return AssertOutcome.TIMED_OUT
        message = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        # Programs linked with Printexc print the second form.
        failed = re.match(
            r'Fatal error: exception (?:Assert_failure\("program.ml", (\d+)|File "program.ml", line (\d+).*Assertion failed)',
            message,
        )
        if failed and int(failed.group(1) or failed.group(2)) >= self.first_test_line:
            return AssertOutcome.FAILED
        return AssertOutcome.RAISED
