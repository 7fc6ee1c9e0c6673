"""One completion -> its grade: extract, compile, run, count, score. The effectful shell around the pure parts."""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from cluster.types import AssertOutcome, DeadlineExceeded, Facts, FinishReason, Grade, Problem, UngradableError, Verdict
from grader.compiled import Compiled, read_answer
from grader.extract import Extraction, Reading, extract
from grader.lexical import num_code_lines
from grader.process import Server, probe_walls
from grader.reward import profile_named, reward_terms, total_reward
from grader.settings import GraderSettings
from grader.signature import defined_name, given_definitions
from grader.tally import tally
from grader.toolchain import Toolchain, prepare_toolchain
from grader.walls import Limits, Walls

# Memory of the compiler: its own 60 MiB or so, and room for a type that grows; bombs end here.
COMPILER_MEMORY_MIB = 1024


class Grader:
    """Grades one completion at a time with a compiler and a runner of its own, both contained and long-lived."""

    def __init__(self, settings: GraderSettings, *, cache: Path | None = None) -> None:
        """Find the toolchain and the walls; nothing is started yet.

        Raises ToolchainError, SandboxError where one is required, ConfigError for an unknown reward profile.
        """
        self._settings = settings
        self._profile = profile_named(settings.reward)
        self.walls: Walls = probe_walls(require_sandbox=settings.require_sandbox)
        self.toolchain: Toolchain = prepare_toolchain(cache)
        self._front: Server | None = None
        self._runner: Server | None = None
        self._jobs = 0

    def grade(self, problem: Problem, text: str, finish_reason: FinishReason) -> Grade:
        """Grade one completion's text.

        Raises UngradableError where the machine, not the completion, failed; the next call starts fresh processes.
        """
        try:
            facts = self._observe(problem, text, finish_reason)
        except (UngradableError, DeadlineExceeded) as error:
            self.close()
            raise UngradableError(f"problem {problem.id!r} could not be graded: {error}") from error
        self._jobs += 1
        if self._jobs >= self._settings.jobs_per_worker:
            self.close()
        return self._score(facts)

    def _score(self, facts: Facts) -> Grade:
        terms = reward_terms(facts, self._profile)
        reward = total_reward(
            facts,
            terms,
            min_code_lines=self._settings.min_code_lines,
            runaway_multiplier=self._settings.runaway_multiplier,
        )
        return Grade(facts=facts, terms=terms, reward=reward)

    def _observe(self, problem: Problem, text: str, finish_reason: FinishReason) -> Facts:
        settings = self._settings
        extraction = self._extract(problem, text)
        started = time.perf_counter()
        readings = extraction.readings
        compiled = self._compile(problem, readings)
        if compiled.verdict is Verdict.TYPE_ERROR and extraction.together:
            # An answer in several blocks, a helper first, say: on its own the last one misses what the others define.
            in_parts = self._compile(problem, [extraction.together])
            if in_parts.blob:
                compiled, readings = in_parts, (extraction.together,)
        seconds = {"compile": time.perf_counter() - started}
        diagnostics, verdict = compiled.diagnostics, compiled.verdict
        asserts = (AssertOutcome.NOT_RUN,) * len(compiled.owners)
        if compiled.blob:
            started = time.perf_counter()
            counted = tally(compiled.owners, self._run(compiled))
            seconds["run"] = time.perf_counter() - started
            diagnostics, verdict, asserts = "\n".join(counted.messages), counted.verdict, counted.outcomes
        if not readings:
            diagnostics, verdict = "no code in the completion", Verdict.NO_CODE
        return Facts(
            verdict=verdict,
            asserts=asserts,
            type_errors=compiled.type_errors,
            syntax_error=verdict is Verdict.SYNTAX_ERROR,
            compiled=bool(compiled.blob),
            type_checked=bool(compiled.blob) or verdict is Verdict.INTERFACE,
            has_end_marker=extraction.has_end_marker,
            hit_length_limit=finish_reason is FinishReason.LENGTH,
            num_code_lines=num_code_lines(readings[compiled.chosen].program) if readings else 0,
            diagnostics=_cut(diagnostics, settings.diagnostics_bytes),
            seconds=seconds,
        )

    def _extract(self, problem: Problem, text: str) -> Extraction:
        limit = self._settings.max_completion_bytes
        if len(text) > limit:
            # Cut in the middle it parses by accident at best: a lone bracket makes sure that it does not.
            return Extraction(
                readings=(Reading(program=text[:limit] + "\n(", has_signature=False),), has_end_marker=False
            )
        return extract(
            text, signature=problem.signature, name=defined_name(problem.signature), statement=problem.statement
        )

    def _compile(self, problem: Problem, readings: Sequence[Reading]) -> Compiled:
        if self._front is None:
            self._front = Server(self.toolchain.front, Limits(memory_mib=COMPILER_MEMORY_MIB), self.walls)
        cpu_seconds = self._settings.compile_cpu_seconds
        # Without code, the tests are compiled all the same: their number is a fact about the problem.
        sources = [_source(reading) for reading in readings] or [b"s"]
        return read_answer(
            self._front.ask(
                [
                    b"grade",
                    f"{cpu_seconds}".encode(),
                    _bytes(defined_name(problem.signature)),
                    _bytes(given_definitions(problem.statement)),
                    _bytes(problem.tests),
                    *sources,
                ],
                deadline_seconds=cpu_seconds * self._settings.wall_multiplier,
            )
        )

    def _run(self, compiled: Compiled) -> list[str]:
        settings = self._settings
        if self._runner is None:
            self._runner = Server(self.toolchain.runner, Limits(memory_mib=settings.memory_mib), self.walls)
        wall_seconds = settings.run_cpu_seconds * settings.wall_multiplier
        events = self._runner.ask(
            [
                compiled.blob,
                str(compiled.num_steps).encode(),
                str(settings.assert_cpu_seconds).encode(),
                str(settings.run_cpu_seconds).encode(),
                str(wall_seconds).encode(),
            ],
            deadline_seconds=wall_seconds + 10.0,
        )
        decoded = [event.decode(errors="replace") for event in events]
        if any(event.startswith("died ") and event.endswith(" wall") for event in decoded):
            # A completion has nothing to wait for: where the wall time ran out first, the machine was busy elsewhere.
            raise UngradableError(f"{wall_seconds:g} s of wall time did not give it its share of CPU time")
        return decoded

    def close(self) -> None:
        """End both processes and remove what they left; may be called twice, and grading may go on after it."""
        self._jobs = 0
        for server in (self._front, self._runner):
            if server is not None:
                server.close()
        self._front = self._runner = None

    def __enter__(self) -> "Grader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _bytes(text: str) -> bytes:
    """UTF-8; a lone surrogate, which a broken tokenizer can produce, becomes a question mark and so a syntax error."""
    return text.encode(errors="replace")


def _source(reading: Reading) -> bytes:
    return (b"b" if reading.has_signature else b"s") + _bytes(reading.program)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 4] + " ..."
