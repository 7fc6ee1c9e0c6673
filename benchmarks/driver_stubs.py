"""Actors with the interfaces of the real sampler, grader and learner actors that answer at once with made-up results.

They replace the actor classes of the real pools and of the learner's client (``stub_actors``), so that these send the same Ray
calls with the same data as in a run.
"""

import random
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

from cluster.actors.calls import packed, unpacked
from cluster.problems.builtin import builtin_problems
from cluster.types import (
    AssertOutcome,
    CodeError,
    Completion,
    Facts,
    FinishReason,
    Grade,
    Group,
    GroupRequest,
    PolicyVersion,
    StepReport,
    Verdict,
)
from grader.reward import profile_of, score
from grader.settings import GraderSettings
from rollout.sampler import SampleStream
from rollout.weight_sync import Verification

CHARACTERS_PER_TOKEN = 3
VARIANTS = 64
"""Token sequences and texts of one length that a sampler draws from; a line of its own makes each text unique."""

NUM_TESTS = 8
MEAN_SECONDS = 0.01  # of made-up measurements


class StubSampler(SampleStream):
    """A sampler that returns each completion of a group as an item of its own."""

    def __init__(self, *arguments: object, **named: object) -> None:
        del arguments, named
        self._random = random.Random(7)

    async def start(self) -> None:
        """Start no engine."""

    async def load_policy(self, policy: PolicyVersion, live_versions: object, tolerance: float) -> Verification:
        """Load nothing."""
        del live_versions
        return Verification(
            policy_version=policy.number, gap=None, tolerance=tolerance, missing=(), surplus=(), differing=()
        )

    async def sample(
        self, request: GroupRequest, indexes: Sequence[int], policy_version: int
    ) -> AsyncGenerator[tuple[Completion, ...]]:
        """Yield the completions one by one; each has the maximum number of tokens."""
        for index in indexes:
            yield (self._completion(request, index, policy_version),)

    async def shutdown(self) -> None:
        """Stop nothing."""

    def _completion(self, request: GroupRequest, index: int, policy_version: int) -> Completion:
        num_tokens = request.sampling.max_completion_tokens
        token_ids, logprobs = self._random.choice(_token_variants(num_tokens))
        text = self._random.choice(_texts(num_tokens))
        return Completion(
            id=f"{request.group_id}-c{index}",
            group_id=request.group_id,
            problem_id=request.prompt.problem_id,
            index=index,
            prompt_ids=request.prompt.token_ids,
            token_ids=token_ids,
            sampler_logprobs=logprobs,
            text=f"{text}\nlet v = {request.seed + index}\n(* END *)",
            finish_reason=FinishReason.STOP,
            policy_version=policy_version,
            seconds=MEAN_SECONDS,
            temperature=request.sampling.temperature,
        )


class StubGrader:
    """A grader that draws verdicts and scores them by the real reward profile."""

    def __init__(self, settings: GraderSettings, special_tokens: tuple[str, ...] = ()) -> None:
        del special_tokens
        self._profile = profile_of(settings)
        self._random = random.Random(7)

    def start(self) -> str:
        """Start nothing."""
        return "no sandbox"

    def grade(self, job: bytes) -> bytes:
        """Draw a grade."""
        _, text, finish_reason, *_ = unpacked(job)
        return packed(self._grade(text, finish_reason))

    def close(self) -> None:
        """End nothing."""

    def _grade(self, text: str, finish_reason: FinishReason) -> Grade:
        verdict = self._random.choice((Verdict.PASSED, Verdict.WRONG, Verdict.WRONG, Verdict.TYPE_ERROR))
        type_errors = self._random.randint(1, 3) if verdict is Verdict.TYPE_ERROR else 0
        is_run = verdict is not Verdict.TYPE_ERROR
        num_passed = NUM_TESTS if verdict is Verdict.PASSED else self._random.randrange(NUM_TESTS) if is_run else 0
        other = AssertOutcome.FAILED if is_run else AssertOutcome.NOT_RUN
        message = "This expression has type int but an expression was expected of type string"
        facts = Facts(
            verdict=verdict,
            asserts=(AssertOutcome.PASSED,) * num_passed + (other,) * (NUM_TESTS - num_passed),
            covered_by_example=(False,) * NUM_TESTS,
            type_errors=type_errors,
            errors=tuple(CodeError(line=line, message=message) for line in range(1, type_errors + 1)),
            syntax_error=False,
            compiled=is_run,
            type_checked=is_run,
            has_end_marker=finish_reason is FinishReason.STOP,
            hit_length_limit=finish_reason is FinishReason.LENGTH,
            num_code_lines=text.count("\n"),
            diagnostics=f"Error: {message}" * type_errors,
            seconds={"compile": MEAN_SECONDS, "run": MEAN_SECONDS},
        )
        return score(facts, self._profile)


class StubLearner:
    """A learner that counts steps."""

    def __init__(self, *arguments: object) -> None:
        del arguments
        self._step = 0

    def start(self, rendezvous: object, checkpoint: object) -> None:
        """Load nothing."""
        del rendezvous, checkpoint

    def step(self, groups: Sequence[Group], active_overrides: Mapping[str, Any]) -> tuple[PolicyVersion, StepReport]:
        """Return the next policy, and advantages of all graded completions."""
        del active_overrides
        self._step += 1
        advantages = {
            completion.id: grade.reward - sum(group.rewards) / len(group.rewards)
            for group in groups
            for completion, grade in zip(group.completions, group.grades, strict=True)
            if grade is not None
        }
        metrics = {"loss": 0.01, "grad_norm": 0.1, "entropy": 0.3, "learning_rate": 1e-5}
        policy = PolicyVersion(number=self._step, adapter={"adapter_model.safetensors": bytes(1024)})
        return policy, StepReport(step=self._step, metrics=metrics, advantages=advantages)

    def save_checkpoint(self) -> tuple[int, Mapping[str, bytes]]:
        """Return a checkpoint with one small file."""
        return self._step, {"state": b"made up"}


@contextmanager
def stub_actors() -> Iterator[None]:
    """Let the real pools and the real client of the learner start stub actors."""
    with ExitStack() as patches:
        for name, stub in (
            ("rollout.replica.Sampler", StubSampler),
            ("grader.lifecycle.GraderActor", StubGrader),
            ("learner.client.LearnerActor", StubLearner),
        ):
            patches.enter_context(patch(name, stub))
        yield


@cache
def _token_variants(num_tokens: int) -> Sequence[tuple[tuple[int, ...], tuple[float, ...]]]:
    pick = random.Random(num_tokens)
    return [
        (
            tuple(pick.choices(range(150_000), k=num_tokens)),
            tuple(-pick.expovariate(3.0) for _ in range(num_tokens)),
        )
        for _ in range(VARIANTS)
    ]


@cache
def _texts(num_tokens: int) -> Sequence[str]:
    """Lines of solutions of the built-in problems, about as long as so many tokens."""
    pick = random.Random(num_tokens)
    lines = [line for problem in builtin_problems() for line in (problem.solution or "").splitlines()]
    texts = []
    for _ in range(VARIANTS):
        start, text = pick.randrange(len(lines)), ""
        for line in [*lines[start:], *lines]:
            if len(text) >= CHARACTERS_PER_TOKEN * num_tokens:
                break
            text += f"{line}\n"
        texts.append(text)
    return texts
