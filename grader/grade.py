"""One completion -> its grade: extract, compile, run, count, score. The effectful shell around the pure parts."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from cluster.errors import DeadlineExceeded, UngradableError
from cluster.types import AssertOutcome, CodeError, Facts, FinishReason, Grade, Problem, Verdict
from grader.answer import behind
from grader.assert_outcomes import tally
from grader.compiled import Compiled
from grader.extract import Extraction, Reading, extract
from grader.inspection import Inspection
from grader.languages import other_than_ocaml
from grader.process import StartFailed, probe_sandbox
from grader.quality_flags import signals
from grader.reward import profile_of, score
from grader.sandbox import Sandbox
from grader.settings import GraderSettings
from grader.signature import defined_name
from grader.toolchain import Toolchain, prepare_toolchain
from grader.worker import Worker

INSPECTIONS_REMEMBERED = 4096  # problems, a few KiB each
MAX_ERRORS_KEPT = 20
_Answer = TypeVar("_Answer")


class Grader:
    """Grades one completion at a time with a compiler and a runner of its own, both contained and long-lived.

    Bubblewrap ends its processes with the *thread* that started them: use a grader from threads that live as long as it does.
    """

    def __init__(
        self, settings: GraderSettings, *, cache: Path | None = None, special_tokens: tuple[str, ...] = ()
    ) -> None:
        """Find the toolchain and the walls; nothing is started yet. ``special_tokens``: of the completions' tokenizer.

        Raises ToolchainError, SandboxError where one is required, ConfigError for an impossible reward.
        """
        self._settings = settings
        self._special_tokens = special_tokens
        self._profile = profile_of(settings)
        self.toolchain: Toolchain = prepare_toolchain(cache)
        self.sandbox: Sandbox = probe_sandbox(require_sandbox=settings.require_sandbox, runner=self.toolchain.runner)
        self.worker = Worker(settings, self.toolchain, self.sandbox, prepare=partial(prepare_toolchain, cache))
        self._jobs = 0
        self._inspections: dict[tuple[str, str, bool], Inspection] = {}

    def grade(self, problem: Problem, text: str, finish_reason: FinishReason, opened_thought: str = "") -> Grade:
        """Grade one completion's text; ``opened_thought`` is the tag of a thought that its prompt left open.

        Raises UngradableError where the machine, not the completion, failed, StartFailed among them; the next call starts
        fresh processes.
        """
        text = behind(opened_thought, text)
        facts = self._answered(problem, "graded", lambda: self._observe(problem, text, finish_reason))
        self._jobs += 1
        if self._jobs >= self._settings.jobs_per_worker:
            self.close()
        return score(facts, self._profile)

    def inspect(self, problem: Problem, *, everything: bool = True) -> Inspection:
        """Say what a problem's own text shows: what its statement gives away and, with ``everything``, why none can pass.

        The newest inspections are remembered. Raises UngradableError where the machine failed.
        """
        key = (problem.prompt, problem.tests, everything)
        known = self._inspections.get(key)
        if known is None:
            known = self._answered(problem, "inspected", lambda: self.worker.inspect(problem, everything=everything))
            self._inspections[key] = known
            if len(self._inspections) > INSPECTIONS_REMEMBERED:
                self._inspections.pop(next(iter(self._inspections)))
        return known

    def _answered(self, problem: Problem, done: str, work: Callable[[], _Answer]) -> _Answer:
        try:
            return work()
        except StartFailed:
            self.close()
            raise
        except (UngradableError, DeadlineExceeded) as error:
            self.close()
            raise UngradableError(f"problem {problem.id!r} could not be {done}: {error}") from error

    def _observe(self, problem: Problem, text: str, finish_reason: FinishReason) -> Facts:
        seconds: dict[str, float] = {}
        with _timed(seconds, "extract"):
            extraction = self._extract(problem, text)
        with _timed(seconds, "compile"):
            compiled, reading = self._compile(problem, extraction)
            compiled = _unless_it_is_no_ocaml(compiled, extraction, defined_name(problem.signature))
        verdict, asserts, messages = _without_a_run(compiled, reading, extraction.why_none)
        if compiled.blob:
            with _timed(seconds, "run"):
                counted = tally(compiled.owners, self.worker.run(compiled))
            verdict, asserts, messages = counted.verdict, counted.outcomes, counted.messages
        errors = tuple(_in_the_text(error, reading) for error in compiled.errors) if reading else ()
        text = text[: self._settings.max_completion_bytes]
        looks = signals(
            text,
            reading,
            name=defined_name(problem.signature),
            statement=problem.statement,
            special_tokens=self._special_tokens,
        )
        return Facts(
            verdict=verdict,
            asserts=asserts,
            covered_by_example=self.inspect(problem, everything=False).shown,
            type_errors=len(errors) if verdict is Verdict.TYPE_ERROR else 0,
            errors=errors[:MAX_ERRORS_KEPT],
            syntax_error=verdict is Verdict.SYNTAX_ERROR,
            compiled=bool(compiled.blob),
            type_checked=bool(compiled.blob) or verdict is Verdict.INTERFACE,
            has_end_marker=extraction.has_end_marker,
            hit_length_limit=finish_reason is FinishReason.LENGTH,
            num_code_lines=looks.num_code_lines,
            quality_flags=looks.quality_flags,
            num_code_blocks=looks.num_code_blocks,
            has_trailing_prose=looks.has_trailing_prose,
            diagnostics=_cut("\n".join([*map(_described, errors), *messages]), self._settings.diagnostics_bytes),
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
            text,
            signature=problem.signature,
            name=defined_name(problem.signature),
            statement=problem.statement,
            special_tokens=self._special_tokens,
        )

    def _compile(self, problem: Problem, extraction: Extraction) -> tuple[Compiled, Reading | None]:
        """The compiler's answer, and the reading that it is about; None where there is no code."""
        if extraction.quoted:
            as_it_stands = self.worker.compile(problem, [extraction.quoted])
            if as_it_stands.verdict is not Verdict.SYNTAX_ERROR:
                return as_it_stands, extraction.quoted
        compiled = self.worker.compile(problem, extraction.readings)
        if compiled.verdict is Verdict.TYPE_ERROR and extraction.together:
            # An answer in several blocks, a helper first, say: on its own the last one misses what the others define.
            in_parts = self.worker.compile(problem, [extraction.together])
            if in_parts.blob:
                return in_parts, extraction.together
        return compiled, extraction.readings[compiled.chosen] if extraction.readings else None

    def close(self) -> None:
        """End both processes and remove what they left; may be called twice, and grading may go on after it."""
        self._jobs = 0
        self.worker.close()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started


def _unless_it_is_no_ocaml(compiled: Compiled, extraction: Extraction, name: str) -> Compiled:
    """What the compiler says, but of a program of another language, and of prose: those earn nothing for how they fail."""
    if not extraction.readings or compiled.verdict not in (Verdict.SYNTAX_ERROR, Verdict.TYPE_ERROR):
        return compiled
    other = other_than_ocaml(extraction.code, tag=extraction.language, name=name)
    if not other:
        return compiled
    return replace(
        compiled, verdict=Verdict.NO_CODE, errors=(), message=f"no OCaml in the completion: it reads like {other}"
    )


def _without_a_run(
    compiled: Compiled, reading: Reading | None, why_none: str
) -> tuple[Verdict, tuple[AssertOutcome, ...], Sequence[str]]:
    asserts = (AssertOutcome.NOT_RUN,) * len(compiled.owners)
    if reading is None:
        return (
            Verdict.NO_CODE,
            asserts,
            [f"no code in the completion: {why_none}" if why_none else "no code in the completion"],
        )
    return compiled.verdict, asserts, [compiled.message] if compiled.message else []


def _in_the_text(error: CodeError, reading: Reading) -> CodeError:
    """The error at the completion's own line; what concerns the signature that was put in front is told of its first."""
    if error.line == 0:
        return error
    return replace(error, line=max(1, reading.first_line + error.line - 1))


def _described(error: CodeError) -> str:
    return f"line {error.line}: {error.message}" if error.line else error.message


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 4] + " ..."
