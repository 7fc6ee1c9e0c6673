"""One grader as a Ray actor."""

from collections.abc import Sequence

from cluster.actors.calls import packed, unpacked
from cluster.actors.gpus import hide_gpus
from cluster.types import FinishReason, Problem
from grader.audit import unsolvable_causes
from grader.grade import Grader
from grader.settings import GraderSettings

GradeJob = tuple[Problem, str, FinishReason, str, Sequence[int]]
"""The arguments of Grader.grade: problem, text, finish reason, opened thought, ends of tokens."""


class GraderActor:
    """A grader in its own process."""

    def __init__(self, settings: GraderSettings, special_tokens: tuple[str, ...] = ()) -> None:
        hide_gpus()
        self._settings = settings
        self._special_tokens = special_tokens
        self._grader: Grader | None = None

    def start(self) -> str:
        """Start the grader and return a line about its sandbox; raises ToolchainError or SandboxError."""
        self._grader = Grader(self._settings, special_tokens=self._special_tokens)
        return self._grader.sandbox.describe()

    def grade(self, job: bytes) -> bytes:
        """Grade one completion; ``job`` is the packed GradeJob, the result the packed Grade. Raises UngradableError."""
        return packed(self._started().grade(*unpacked(job)))

    def unsolvable_causes(self, problem: Problem) -> tuple[str, ...]:
        """Return the reasons why no solution can pass a problem; empty if none is known. Raises UngradableError."""
        return unsolvable_causes(self._started(), problem)

    def _started(self) -> Grader:
        assert self._grader is not None, "the grader was not started: call start() first"
        return self._grader

    def close(self) -> None:
        """End the OCaml processes."""
        if self._grader is not None:
            self._grader.close()
