"""A grader pool without OCaml and Ray, for tests of other components. Its grades satisfy the same invariants as real ones."""

from collections.abc import Callable

from cluster.errors import UngradableError
from cluster.types import (
    AssertOutcome,
    Completion,
    Facts,
    FinishReason,
    Grade,
    Problem,
    RewardTerms,
    Usage,
    Verdict,
)
from grader.lexical import has_end_marker
from grader.reward import profile_of, score
from grader.settings import GraderSettings

NUM_TESTS = 10


def grade_of(reward: float) -> Grade:
    """Make a grade with this reward, all of it for the tests; its single assert passed if the reward is 1."""
    passed = reward == 1.0
    facts = Facts(
        verdict=Verdict.PASSED if passed else Verdict.WRONG,
        asserts=(AssertOutcome.PASSED if passed else AssertOutcome.FAILED,),
        type_errors=0,
        syntax_error=False,
        compiled=True,
        type_checked=True,
        has_end_marker=True,
        hit_length_limit=False,
        num_code_lines=1,
    )
    terms = RewardTerms(structural=0.0, type_check=0.0, compile=0.0, tests=reward)
    return Grade(facts=facts, terms=terms, reward=reward)


class FakeGraderPool:
    """A GraderPool whose grades come from a function of problem and completion."""

    def __init__(
        self, share_passed: Callable[[Problem, Completion], float | None], settings: GraderSettings | None = None
    ) -> None:
        """``share_passed`` returns the share of asserts that pass, or None to raise UngradableError."""
        self._share_passed = share_passed
        self._profile = profile_of(settings or GraderSettings(min_code_lines=0))
        self.num_graded = 0
        self.closed = False

    async def grade(self, problem: Problem, completion: Completion) -> Grade:
        """Grade one completion; raises UngradableError if the function returns None."""
        share = self._share_passed(problem, completion)
        if share is None:
            raise UngradableError(f"completion {completion.id!r} is ungradable, as the test asked")
        self.num_graded += 1
        passed = round(share * NUM_TESTS)
        facts = Facts(
            verdict=Verdict.PASSED if passed == NUM_TESTS else Verdict.WRONG,
            asserts=(AssertOutcome.PASSED,) * passed + (AssertOutcome.FAILED,) * (NUM_TESTS - passed),
            type_errors=0,
            syntax_error=False,
            compiled=True,
            type_checked=True,
            has_end_marker=has_end_marker(completion.text),
            hit_length_limit=completion.finish_reason is FinishReason.LENGTH,
            num_code_lines=len(completion.text.splitlines()),
            seconds={"compile": 0.0, "run": 0.0},
        )
        return score(facts, self._profile)

    def usage(self) -> Usage:
        """Usage of one grader that was never busy."""
        return Usage(num_replicas=1, busy_seconds=0.0, num_running=0, num_waiting=0)

    async def close(self) -> None:
        """Set ``closed``."""
        self.closed = True
