"""One grader as a Ray actor, and how it is waited for."""

import asyncio
from typing import Any

from ray.exceptions import RayError, RayTaskError

from cluster.types import CaravanError, DeadlineExceeded, FinishReason, Grade, Problem, UngradableError
from grader.audit import unsolvable_causes
from grader.grade import Grader
from grader.settings import GraderSettings


class GraderActor:
    """What runs in each actor's process."""

    def __init__(self, settings: GraderSettings, special_tokens: tuple[str, ...] = ()) -> None:
        self._settings = settings
        self._special_tokens = special_tokens
        self._grader: Grader | None = None

    def start(self) -> str:
        """Make the grader ready and return one line about its walls; raises ToolchainError or SandboxError."""
        self._grader = Grader(self._settings, special_tokens=self._special_tokens)
        return self._grader.sandbox.describe()

    def grade(self, problem: Problem, text: str, finish_reason: FinishReason, opened_thought: str = "") -> Grade:
        """Grade one completion; raises UngradableError."""
        return self._started().grade(problem, text, finish_reason, opened_thought)

    def causes_of(self, problem: Problem) -> tuple[str, ...]:
        """Why no solution can pass a problem, empty where one may; raises UngradableError."""
        return unsolvable_causes(self._started(), problem)

    def _started(self) -> Grader:
        assert self._grader is not None, "a grader gets work once it has started"
        return self._grader

    def close(self) -> None:
        """End the OCaml processes."""
        if self._grader is not None:
            self._grader.close()


class GraderLost(UngradableError):
    """The process of a grader is gone, or never came to be."""


async def answer(call: Any, seconds: float, purpose: str) -> Any:
    """Await a remote call: DeadlineExceeded when late, GraderLost, and our own errors as they were raised over there."""
    try:
        # Not asyncio.wait_for: Python 3.11's forgets a cancellation that comes together with the answer.
        async with asyncio.timeout(seconds):
            return await asyncio.wrap_future(call.future())
    except TimeoutError as error:
        raise DeadlineExceeded(f"a grader actor did not {purpose} within {seconds:g} s") from error
    except RayTaskError as error:
        if isinstance(error.cause, CaravanError):
            raise error.cause from error
        raise
    except RayError as error:  # it died, was ended for memory, or could not be started
        first_line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise GraderLost(f"a grader actor did not {purpose}: its process is gone ({first_line})") from error
