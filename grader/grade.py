"""One completion -> its grade: extract, compile, run, score. Starts the processes; the other stages are pure."""

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
from grader.answer import with_opened_thought
from grader.assert_outcomes import outcome_of_events
from grader.chat_tokens import token_patterns
from grader.compiled import Compiled
from grader.extract import CandidateProgram, Extraction, extract
from grader.inspection import Inspection
from grader.languages import other_language
from grader.process import StartFailed, probe_sandbox
from grader.quality_flags import text_quality
from grader.reward import profile_of, score
from grader.sandbox import Sandbox
from grader.settings import GraderSettings
from grader.signature import defined_name
from grader.thoughts import num_thought_tokens
from grader.toolchain import Toolchain, prepare_toolchain
from grader.worker import Worker

MAX_CACHED_INSPECTIONS = 4096  # one per problem, a few KiB each
MAX_ERRORS_KEPT = 20
_Answer = TypeVar("_Answer")


class Grader:
    """Grades one completion at a time with its own compiler and runner process, both sandboxed and long-lived.

    Bubblewrap kills its processes when the *thread* that started them ends: use a grader only from threads that outlive it.
    """

    def __init__(
        self, settings: GraderSettings, *, cache: Path | None = None, special_tokens: tuple[str, ...] = ()
    ) -> None:
        """Find the toolchain and the sandbox layers; no process is started yet.

        Args:
            settings: limits, sandbox and reward.
            cache: folder of the grader's OCaml programs; by default the first usable one of ``candidate_folders``.
            special_tokens: of the tokenizer that completions are decoded with.

        Raises ToolchainError, SandboxError if a required sandbox is missing, ConfigError for an impossible reward.
        """
        self._settings = settings
        self._token_patterns = token_patterns(special_tokens)
        self._profile = profile_of(settings)
        self.toolchain: Toolchain = prepare_toolchain(cache)
        self.sandbox: Sandbox = probe_sandbox(require_sandbox=settings.require_sandbox, runner=self.toolchain.runner)
        self.worker = Worker(settings, self.toolchain, self.sandbox, prepare=partial(prepare_toolchain, cache))
        self._num_graded = 0  # completions graded by the current processes
        self._inspections: dict[tuple[str, str, bool], Inspection] = {}

    def grade(
        self,
        problem: Problem,
        text: str,
        finish_reason: FinishReason,
        opened_thought: str = "",
        token_ends: Sequence[int] = (),
    ) -> Grade:
        """Grade one completion's text.

        Args:
            problem: what the completion has to solve.
            text: the completion as sampled.
            finish_reason: why it ended.
            opened_thought: tag of a thought that its prompt left open.
            token_ends: position in ``text`` where each token ends; empty: unknown, so that a thought's tokens are not counted.

        Raises UngradableError (StartFailed included) if the machine, not the completion, failed; the next call starts fresh
        processes.
        """
        read = with_opened_thought(opened_thought, text)
        ends = [len(read) - len(text) + end for end in token_ends]
        facts = self._close_on_error(problem, "graded", lambda: self._observe(problem, read, finish_reason, ends))
        self._num_graded += 1
        if self._num_graded >= self._settings.jobs_per_worker:
            self.close()
        return score(facts, self._profile)

    def inspect(self, problem: Problem, *, everything: bool = True) -> Inspection:
        """Find the asserts that a problem's examples cover and, with ``everything``, its causes and warnings.

        The newest inspections are cached. Raises UngradableError if the machine failed.
        """
        key = (problem.prompt, problem.tests, everything)
        cached = self._inspections.get(key)
        if cached is None:
            cached = self._close_on_error(
                problem, "inspected", lambda: self.worker.inspect(problem, everything=everything)
            )
            self._inspections[key] = cached
            if len(self._inspections) > MAX_CACHED_INSPECTIONS:
                self._inspections.pop(next(iter(self._inspections)))
        return cached

    def _close_on_error(self, problem: Problem, done: str, work: Callable[[], _Answer]) -> _Answer:
        """Do the work; after an error close the worker. ``done`` completes "could not be ..." in the message."""
        try:
            return work()
        except StartFailed:
            self.close()
            raise
        except (UngradableError, DeadlineExceeded) as error:
            self.close()
            raise UngradableError(f"problem {problem.id!r} could not be {done}: {error}") from error

    def _observe(self, problem: Problem, text: str, finish_reason: FinishReason, token_ends: Sequence[int]) -> Facts:
        seconds: dict[str, float] = {}
        name = defined_name(problem.signature)
        with _timed(seconds, "extract"):
            extraction = extract(
                text,
                signature=problem.signature,
                name=name,
                statement=problem.statement,
                tokens=self._token_patterns,
                max_chars=self._settings.max_completion_bytes,
            )
        with _timed(seconds, "compile"):
            compiled, candidate = self._compile(problem, extraction)
            compiled = _no_code_if_other_language(compiled, extraction, name)
        if candidate and candidate is extraction.verbatim:
            extraction = replace(extraction, thoughts=())  # their tags are in literals or comments of the program
        verdict, asserts, messages = _without_run(compiled, candidate, extraction.no_code_reason)
        if compiled.blob:
            with _timed(seconds, "run"):
                outcome = outcome_of_events(compiled.owners, self.worker.run(compiled))
            verdict, asserts, messages = outcome.verdict, outcome.asserts, outcome.messages
        errors = tuple(_at_completion_line(error, candidate) for error in compiled.errors) if candidate else ()
        quality = text_quality(extraction, candidate, name=name)
        return Facts(
            verdict=verdict,
            asserts=asserts,
            covered_by_example=self.inspect(problem, everything=False).covered_by_example,
            type_errors=len(errors) if verdict is Verdict.TYPE_ERROR else 0,
            errors=errors[:MAX_ERRORS_KEPT],
            syntax_error=verdict is Verdict.SYNTAX_ERROR,
            compiled=bool(compiled.blob),
            type_checked=bool(compiled.blob) or verdict is Verdict.INTERFACE,
            has_end_marker=extraction.has_end_marker,
            hit_length_limit=finish_reason is FinishReason.LENGTH,
            num_code_lines=quality.num_code_lines,
            quality_flags=quality.quality_flags,
            num_code_blocks=quality.num_code_blocks,
            has_trailing_prose=quality.has_trailing_prose,
            num_thought_tokens=num_thought_tokens(extraction.thoughts, token_ends),
            diagnostics=_cut("\n".join([*map(_described, errors), *messages]), self._settings.diagnostics_bytes),
            seconds=seconds,
        )

    def _compile(self, problem: Problem, extraction: Extraction) -> tuple[Compiled, CandidateProgram | None]:
        """Compile a completion; return the result and the candidate that was compiled, None if there is no code."""
        if extraction.verbatim:
            unchanged = self.worker.compile(problem, [extraction.verbatim])
            if unchanged.verdict is not Verdict.SYNTAX_ERROR:
                return unchanged, extraction.verbatim
        compiled = self.worker.compile(problem, extraction.candidates)
        if compiled.verdict is Verdict.TYPE_ERROR and extraction.joined:
            # An answer in several blocks, such as a helper first: the last block alone lacks the earlier definitions.
            joined = self.worker.compile(problem, [extraction.joined])
            if joined.blob:
                return joined, extraction.joined
        return compiled, extraction.candidates[compiled.chosen] if extraction.candidates else None

    def close(self) -> None:
        """End both processes; may be called twice, and a later call to ``grade`` starts new ones."""
        self._num_graded = 0
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


def _no_code_if_other_language(compiled: Compiled, extraction: Extraction, name: str) -> Compiled:
    """Turn a syntax or type error into NO_CODE, which earns nothing, if the code is another language or prose."""
    if not extraction.candidates or compiled.verdict not in (Verdict.SYNTAX_ERROR, Verdict.TYPE_ERROR):
        return compiled
    language = other_language(extraction.code, fence_language=extraction.language, name=name)
    if not language:
        return compiled
    return replace(
        compiled, verdict=Verdict.NO_CODE, errors=(), message=f"no OCaml in the completion: it reads like {language}"
    )


def _without_run(
    compiled: Compiled, candidate: CandidateProgram | None, no_code_reason: str
) -> tuple[Verdict, tuple[AssertOutcome, ...], Sequence[str]]:
    """Verdict, assert outcomes and messages of a completion that is not run."""
    asserts = (AssertOutcome.NOT_RUN,) * len(compiled.owners)
    if candidate is None:
        message = "no code in the completion"
        return Verdict.NO_CODE, asserts, [f"{message}: {no_code_reason}" if no_code_reason else message]
    return compiled.verdict, asserts, [compiled.message] if compiled.message else []


def _at_completion_line(error: CodeError, candidate: CandidateProgram) -> CodeError:
    """Move an error from the program's line to the completion's; an error in the signature goes to line 1."""
    if error.line == 0:
        return error
    return replace(error, line=max(1, candidate.first_line + error.line - 1))


def _described(error: CodeError) -> str:
    return f"line {error.line}: {error.message}" if error.line else error.message


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 4] + " ..."
