"""The two OCaml processes of one grader, and what is said to them.

Both are contained and long-lived, started when they are first needed. After an error they are of no use: whoever sees one
closes the worker, and the next request starts fresh ones.
"""

from collections.abc import Callable, Sequence

from cluster.errors import ToolchainError, UngradableError
from cluster.types import Problem
from grader.compiled import Compiled, read_answer
from grader.extract import Reading
from grader.inspection import Inspection, inspection_request, read_inspection
from grader.process import Server, StartFailed
from grader.sandbox import Limits, Sandbox
from grader.settings import GraderSettings
from grader.signature import defined_name, given_definitions
from grader.toolchain import Toolchain

# Memory of the compiler: its own 60 MiB or so, and room for a type that grows; bombs end here.
COMPILER_MEMORY_MIB = 1024


class Worker:
    """``front``, which compiles, and ``runner``, which runs; each request raises UngradableError or DeadlineExceeded."""

    def __init__(
        self, settings: GraderSettings, toolchain: Toolchain, walls: Sandbox, *, prepare: Callable[[], Toolchain]
    ) -> None:
        """Nothing is started yet. ``prepare`` is asked for another toolchain where the programs of this one are gone."""
        self._settings = settings
        self._toolchain = toolchain
        self._prepare = prepare
        self._walls = walls
        self._front: Server | None = None
        self._runner: Server | None = None

    def compile(self, problem: Problem, readings: Sequence[Reading]) -> Compiled:
        """Compile the first reading that parses and binds the problem's name, together with the tests."""
        # Without code, the tests are compiled all the same: their number is a fact about the problem.
        sources = [_source(reading) for reading in readings] or [b"s"]
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
        """Look at a problem itself; without ``everything`` only at what its statement gives away."""
        cpu_seconds = self._settings.compile_cpu_seconds
        return read_inspection(
            self._ask_front(inspection_request(problem, cpu_seconds=cpu_seconds, everything=everything))
        )

    def _ask_front(self, fields: Sequence[bytes]) -> list[bytes]:
        if self._front is None:
            limits = Limits(memory_mib=COMPILER_MEMORY_MIB)
            self._front = Server(self._present_toolchain().front, limits, self._walls)
        deadline_seconds = self._settings.compile_cpu_seconds * self._settings.wall_multiplier
        return self._front.ask(fields, deadline_seconds=deadline_seconds)

    def run(self, compiled: Compiled) -> list[str]:
        """Run a compiled completion against its tests; the events are described in ``grader/ocaml/runner.ml``."""
        settings = self._settings
        if self._runner is None:
            limits = Limits(memory_mib=settings.memory_mib)
            self._runner = Server(self._present_toolchain().runner, limits, self._walls)
        wall_seconds = settings.run_cpu_seconds * settings.wall_multiplier
        numbers = (compiled.num_steps, settings.assert_cpu_seconds, settings.run_cpu_seconds, wall_seconds)
        answer = self._runner.ask(
            [compiled.blob, *(str(number).encode() for number in numbers)], deadline_seconds=wall_seconds + 10.0
        )
        events = [event.decode(errors="replace") for event in answer]
        ends = {event.rpartition(" ")[2] for event in events if event.startswith("died ")}
        if "wall" in ends:
            # A completion has nothing to wait for: where the wall time ran out first, the machine was busy elsewhere.
            raise UngradableError(f"{wall_seconds:g} s of wall time did not give it its share of CPU time")
        if "walls" in ends:
            raise UngradableError("the kernel refuses the walls around a completion that it gave at the start")
        return events

    def _present_toolchain(self) -> Toolchain:
        """Both programs, built again where something (a cleaner of temporary files, say) has deleted one meanwhile."""
        programs = (self._toolchain.front.path, self._toolchain.runner.path)
        if not all(path.exists() for path in programs):
            try:
                self._toolchain = self._prepare()
            except ToolchainError as error:
                raise StartFailed(f"the grader's OCaml programs are gone, and do not come back: {error}") from error
        return self._toolchain

    @property
    def pids(self) -> tuple[int, ...]:
        """The outermost process of each server that has been started."""
        servers = (self._front, self._runner)
        return tuple(server.pid for server in servers if server is not None and server.pid is not None)

    def close(self) -> None:
        """End both processes and remove what they left; may be called twice, and requests start new ones."""
        for server in (self._front, self._runner):
            if server is not None:
                server.close()
        self._front = self._runner = None


def _bytes(text: str) -> bytes:
    """UTF-8; a lone surrogate, which a broken tokenizer can produce, becomes a question mark and so a syntax error."""
    return text.encode(errors="replace")


def _source(reading: Reading) -> bytes:
    return (b"b" if reading.has_signature else b"s") + _bytes(reading.program)
