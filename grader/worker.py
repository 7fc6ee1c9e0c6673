"""The two OCaml processes of one grader, and the requests to them.

Both are sandboxed and long-lived, and are started by the first request. After an error a process is unusable: the caller
closes the worker, and the next request starts fresh processes.
"""

from collections.abc import Callable, Sequence

from cluster.errors import ToolchainError, UngradableError
from cluster.types import Problem
from grader.compiled import Compiled, read_answer
from grader.extract import CandidateProgram
from grader.inspection import Inspection, inspection_request, read_inspection
from grader.process import Server, StartFailed
from grader.sandbox import Limits, Sandbox
from grader.settings import GraderSettings
from grader.signature import defined_name, given_definitions
from grader.toolchain import Toolchain

# The compiler needs about 60 MiB; the rest is for large types. A program that exhausts the limit is a timeout.
COMPILER_MEMORY_MIB = 1024


class Worker:
    """``front``, which compiles, and ``runner``, which runs; each request raises UngradableError or DeadlineExceeded."""

    def __init__(
        self, settings: GraderSettings, toolchain: Toolchain, sandbox: Sandbox, *, prepare: Callable[[], Toolchain]
    ) -> None:
        """Start nothing yet. ``prepare`` builds the toolchain again if its programs have been deleted."""
        self._settings = settings
        self._toolchain = toolchain
        self._prepare = prepare
        self._sandbox = sandbox
        self._front: Server | None = None
        self._runner: Server | None = None

    def compile(self, problem: Problem, candidates: Sequence[CandidateProgram]) -> Compiled:
        """Compile the first candidate that parses and binds the problem's name, together with the tests."""
        # Without a candidate the tests are compiled alone, since every grade reports their number.
        sources = [_source(candidate) for candidate in candidates] or [b"s"]
        fields = [
            b"grade",
            f"{self._settings.compile_cpu_seconds}".encode(),
            _bytes(defined_name(problem.signature)),
            _bytes(given_definitions(problem.statement)),
            _bytes(problem.tests),
            *sources,
        ]
        return read_answer(self._ask_front(fields))

    def inspect(self, problem: Problem, *, everything: bool) -> Inspection:
        """Inspect a problem; without ``everything`` only find the asserts that an example covers."""
        cpu_seconds = self._settings.compile_cpu_seconds
        return read_inspection(
            self._ask_front(inspection_request(problem, cpu_seconds=cpu_seconds, everything=everything))
        )

    def _ask_front(self, fields: Sequence[bytes]) -> list[bytes]:
        if self._front is None:
            limits = Limits(memory_mib=COMPILER_MEMORY_MIB)
            self._front = Server(self._present_toolchain().front, limits, self._sandbox)
        deadline_seconds = self._settings.compile_cpu_seconds * self._settings.wall_multiplier
        return self._front.ask(fields, deadline_seconds=deadline_seconds)

    def run(self, compiled: Compiled) -> list[str]:
        """Run a compiled completion against its tests; ``grader/ocaml/runner.ml`` documents the events."""
        settings = self._settings
        if self._runner is None:
            limits = Limits(memory_mib=settings.memory_mib)
            self._runner = Server(self._present_toolchain().runner, limits, self._sandbox)
        wall_seconds = settings.run_cpu_seconds * settings.wall_multiplier
        numbers = (compiled.num_steps, settings.assert_cpu_seconds, settings.run_cpu_seconds, wall_seconds)
        answer = self._runner.ask(
            [compiled.blob, *(str(number).encode() for number in numbers)], deadline_seconds=wall_seconds + 10.0
        )
        events = [event.decode(errors="replace") for event in answer]
        ends = {event.rpartition(" ")[2] for event in events if event.startswith("died ")}
        if "wall" in ends:
            # A completion has nothing to wait for: if wall time runs out before CPU time, the machine is overloaded.
            raise UngradableError(f"the run got too little CPU time within {wall_seconds:g} s of wall time")
        if "sandbox" in ends:
            raise UngradableError(
                "the kernel refuses the sandbox layers of a completion, although it granted them at the start"
            )
        return events

    def _present_toolchain(self) -> Toolchain:
        """The toolchain, built again if a program was deleted (by a cleaner of temporary files, for example)."""
        programs = (self._toolchain.front.path, self._toolchain.runner.path)
        if not all(path.exists() for path in programs):
            try:
                self._toolchain = self._prepare()
            except ToolchainError as error:
                raise StartFailed(
                    f"the grader's OCaml programs were deleted and cannot be built again: {error}"
                ) from error
        return self._toolchain

    @property
    def pids(self) -> tuple[int, ...]:
        """The outermost process of each server that has been started."""
        servers = (self._front, self._runner)
        return tuple(server.pid for server in servers if server is not None and server.pid is not None)

    def close(self) -> None:
        """End both processes; may be called twice. A later request starts new ones."""
        for server in (self._front, self._runner):
            if server is not None:
                server.close()
        self._front = self._runner = None


def _bytes(text: str) -> bytes:
    """Encode as UTF-8; a lone surrogate from a broken tokenizer becomes a question mark, which is a syntax error."""
    return text.encode(errors="replace")


def _source(candidate: CandidateProgram) -> bytes:
    return (b"b" if candidate.has_signature else b"s") + _bytes(candidate.source)
