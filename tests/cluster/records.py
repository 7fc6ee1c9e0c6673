"""Small records for tests."""

from collections.abc import Sequence
from dataclasses import replace

from cluster.types import Completion, FinishReason, Grade, Group, Problem, RewardTerms, Verdict
from grader.fake import grade_of


def problem(problem_id: str = "p", difficulty: str | None = None) -> Problem:
    return Problem(
        id=problem_id,
        statement="(** One more. *)",
        signature="let f (n : int) : int =",
        tests="let () = assert (f 1 = 2)",
        difficulty=difficulty,
    )


def grade(reward: float, verdict: Verdict | None = None) -> Grade:
    made = grade_of(reward)
    return replace(
        made,
        facts=replace(made.facts, verdict=verdict or made.facts.verdict),
        terms=RewardTerms(structural=0.05, type_check=0.2, compile=0.1, tests=reward),
    )


def completion(group_id: str, index: int, *, version: int = 0, num_tokens: int = 4) -> Completion:
    return Completion(
        id=f"{group_id}-c{index}",
        group_id=group_id,
        problem_id="p",
        index=index,
        prompt_ids=(1, 2),
        token_ids=tuple(range(num_tokens)),
        sampler_logprobs=(-1.0,) * num_tokens,
        text="n + 1\n(* END *)",
        finish_reason=FinishReason.STOP,
        policy_version=version,
        seconds=0.1,
    )


def group(rewards: Sequence[float | None], *, version: int = 0, group_id: str = "g0000000") -> Group:
    return Group(
        id=group_id,
        problem=problem(),
        completions=tuple(completion(group_id, index, version=version) for index in range(len(rewards))),
        grades=tuple(None if reward is None else grade(reward) for reward in rewards),
    )
