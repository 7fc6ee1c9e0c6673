"""Held-out evaluation: sample and grade a fixed set of problems under the samplers' current policy."""

import asyncio
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from cluster.config.config import Config
from cluster.errors import UngradableError
from cluster.ledger.evaluation_result import EvaluationResult, ProblemResult
from cluster.ledger.rows import TERMS
from cluster.loop.estimates import interval_of_shares, pass_at_k
from cluster.loop.group_rollout import GroupRollout
from cluster.loop.metrics import spread, verdict_shares
from cluster.protocols import GraderPool, SamplerPool
from cluster.types import Group, GroupRequest, Problem, Prompt, Sampling, Verdict

LOST_PROBLEMS = 6
"""Exit code of a command whose evaluation lost some problems: none of their completions was graded."""

_LEAST_TOP_P = 1e-6
"""Smallest top_p above greedy: in a vocabulary of up to a million tokens, a smaller share holds the likeliest token only."""

_LEAST_TEMPERATURE = 0.01
"""Smallest temperature of vLLM; at it, tokens whose logits differ by 1 are 100 nats apart."""


def evaluation_sampling(config: Config) -> Sampling:
    """Return the sampling parameters of evaluations."""
    evaluation, rollout = config.evaluation, config.rollout
    return Sampling(
        temperature=0.0 if evaluation.greedy else rollout.temperature,
        max_completion_tokens=rollout.max_completion_tokens,
        top_p=evaluation.top_p,
        top_k=evaluation.top_k,
        min_p=evaluation.min_p,
        stop=rollout.stop,
    )


def is_greedy(sampling: Sampling) -> bool:
    """Return True if only the likeliest token can be sampled, so that all completions of a prompt are equal."""
    return (
        sampling.temperature < _LEAST_TEMPERATURE
        or sampling.top_k == 1
        or sampling.min_p == 1
        or sampling.top_p <= _LEAST_TOP_P
    )


def num_distinct(sampling: Sampling, asked: int, log: Callable[[str], None] = lambda _: None) -> int:
    """Return the number of completions to sample per problem: 1 under greedy sampling (with a log line), else ``asked``."""
    if asked == 1 or not is_greedy(sampling):
        return asked
    log(
        f"greedy sampling gives {asked} equal completions: one of each problem is sampled and counted. For pass@k with k over 1, "
        "unset evaluation.greedy (and top_k=1, min_p=1)"
    )
    return 1


async def sample_and_grade(
    problems: Sequence[Problem],
    prompts: Mapping[str, Prompt],
    *,
    samplers: SamplerPool,
    graders: GraderPool,
    sampling: Sampling,
    completions_per_problem: int,
    seed: int,
    name: str,
    on_done: Callable[[], None] = lambda: None,
    on_lost: Callable[[str, str], object] = lambda _problem, _reason: None,
) -> list[Group]:
    """Return a graded group of every problem. The samplers queue requests beyond their capacity.

    ``on_done`` is called after each problem; ``on_lost`` with its id and a reason if none of its completions has a grade.
    """

    async def one(number: int, problem: Problem) -> Group:
        request = GroupRequest(
            group_id=f"{name}-{number:06d}",
            position=number,
            prompt=prompts[problem.id],
            group_size=completions_per_problem,
            sampling=sampling,
            seed=(seed << 32) + number * completions_per_problem,
        )
        rollout = GroupRollout(problem, request)
        group = await rollout.run(samplers, graders)
        if all(grade is None for grade in group.grades):
            on_lost(problem.id, (rollout.drop and str(rollout.drop)) or rollout.grading_error or "unknown reason")
        on_done()
        return group

    async with asyncio.TaskGroup() as tasks:
        rollouts = [tasks.create_task(one(number, problem)) for number, problem in enumerate(problems)]
    return [task.result() for task in rollouts]


def summarize(groups: Sequence[Group], name: str, step: int | None = None) -> EvaluationResult:
    """Return the result over all graded completions; the standard error treats problems, not completions, as independent."""
    graded = [[grade for grade in group.grades if grade is not None] for group in groups]
    graded = [grades for grades in graded if grades]
    grades = [grade for group in graded for grade in group]
    if not grades:
        raise UngradableError(f"no completion of the evaluation {name!r} could be graded")
    problems = by_problem(groups)
    means = [statistics.fmean(grade.reward for grade in group) for group in graded]
    solved = [any(grade.facts.verdict is Verdict.PASSED for grade in group) for group in graded]
    return EvaluationResult(
        name=name,
        step=step,
        reward=statistics.fmean(grade.reward for grade in grades),
        reward_standard_error=spread(means) / math.sqrt(len(means)),
        pass_rate=sum(grade.facts.verdict is Verdict.PASSED for grade in grades) / len(grades),
        solved_once=sum(solved) / len(solved),
        num_problems=len(graded),
        num_completions=len(grades),
        num_lost_problems=len(groups) - len(graded),
        lost_problems=[group.problem.id for group in groups if all(grade is None for grade in group.grades)],
        num_ungradable=sum(len(group.completions) for group in groups) - len(grades),
        verdict_shares=verdict_shares(grades),
        reward_terms={
            f"reward_{term}": statistics.fmean(getattr(grade.terms, term) for grade in grades) for term in TERMS
        },
        pass_at=_pass_at(problems),
        by_difficulty=_by_difficulty(problems),
        by_problem=problems,
    )


def lost_problems_warning(result: EvaluationResult, reasons: Mapping[str, str] | None = None) -> str | None:
    """Return a warning if samplers or graders failed on problems, which the metrics then lack; else None.

    ``reasons``: by problem id, as ``on_lost`` of sample_and_grade receives them.
    """
    lost = result.num_lost_problems
    if not lost:
        return None
    first = next(iter((reasons or {}).items()), None)
    because = f" ({first[0]}: {first[1]})" if first else ""
    share = f"{lost} of {lost + result.num_problems} problems"
    return f"{result.name}: {share} could not be measured{because}; the metrics cover the others"


def by_problem(groups: Sequence[Group]) -> list[ProblemResult]:
    """Return a result per problem with a graded completion, in their order."""
    rows = []
    for group in groups:
        grades = [grade for grade in group.grades if grade is not None]
        if grades:
            verdicts = Counter(str(grade.facts.verdict) for grade in grades)
            rows.append(
                ProblemResult(
                    id=group.problem.id,
                    difficulty=group.problem.difficulty,
                    num_completions=len(grades),
                    num_passed=verdicts[Verdict.PASSED],
                    reward=statistics.fmean(grade.reward for grade in grades),
                    verdicts=dict(verdicts),
                )
            )
    return rows


def _pass_at(problems: Sequence[ProblemResult]) -> dict[str, dict[str, float]]:
    """Return pass@k for k = 1, 2, 4, ... up to the smallest number of completions, each with its 95% interval over problems."""
    found = {}
    k, fewest = 1, min(row.num_completions for row in problems)
    while k <= fewest:
        values = [pass_at_k(row.num_completions, row.num_passed, k) for row in problems]
        low, high = interval_of_shares(values)
        found[str(k)] = {"value": statistics.fmean(values), "low": low, "high": high}
        k *= 2
    return found


def _by_difficulty(problems: Sequence[ProblemResult]) -> dict[str, dict[str, float]]:
    """Return problems, mean reward and pass rate by difficulty, with equal weights; empty if no problem has one."""
    rows: dict[str, list[ProblemResult]] = {}
    for row in problems:
        if row.difficulty is not None:
            rows.setdefault(row.difficulty, []).append(row)
    return {
        name: {
            "num_problems": len(some),
            "reward": statistics.fmean(row.reward for row in some),
            "pass_rate": statistics.fmean(row.num_passed / row.num_completions for row in some),
        }
        for name, some in sorted(rows.items())
    }
