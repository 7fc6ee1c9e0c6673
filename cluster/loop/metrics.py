"""Metrics of a step: pure functions of its groups and of the learner's report. docs/metrics.md lists them.

Standard deviations are sample standard deviations, as in TRL, and 0 for a single value.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.progress import Progress
from cluster.loop.diversity import diversity
from cluster.types import DropReason, FinishReason, Grade, Group, Outcome, StepReport, Verdict


def spread(values: Sequence[float]) -> float:
    """Return the sample standard deviation; 0 for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value such that at least this share (0 to 1) of the values is not larger."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Return metrics of rewards, verdicts and lengths of a step's groups. Shares are 0 to 1, lengths are tokens.

    Raises statistics.StatisticsError if no completion has a grade.
    """
    grades = [grade for group in groups for grade in group.grades if grade is not None]
    completions = [completion for group in groups for completion in group.completions]
    rewards = [grade.reward for grade in grades]
    per_group = [group.rewards for group in groups if group.rewards]
    passes = [passes_of(group) for group in groups if group.rewards]
    lengths = [len(completion.token_ids) for completion in completions]
    thoughts = [grade.facts.num_thought_tokens or 0 for grade in grades]
    truncated = sum(completion.finish_reason is FinishReason.LENGTH for completion in completions)
    metrics = {
        "reward": statistics.fmean(rewards),
        "reward_std": statistics.fmean(spread(group) for group in per_group),
        "reward_batch_std": spread(rewards),
        "best_of_n": statistics.fmean(max(group) for group in per_group),
        "frac_zero_std": sum(not group.has_signal for group in groups) / len(groups),
        "pass_rate": sum(grade.facts.verdict is Verdict.PASSED for grade in grades) / len(grades),
        "pass_at_group_size": sum(map(any, passes)) / len(passes),
        "pass_at_all": sum(map(all, passes)) / len(passes),
        "mean_type_errors": statistics.fmean(grade.facts.type_errors for grade in grades),
        "num_groups": float(len(groups)),
        "num_completions": float(len(completions)),
        "num_ungradable": float(len(completions) - len(grades)),
        "completion_tokens": float(sum(lengths)),
        "mean_length": statistics.fmean(lengths),
        "p95_length": float(percentile(lengths, 0.95)),
        "frac_truncated": truncated / len(completions),
        "thought_tokens": float(sum(thoughts)),
        "mean_thought_length": statistics.fmean(thoughts),
        "p95_thought_length": float(percentile(thoughts, 0.95)),
    }
    metrics["reward_cv"] = metrics["reward_std"] / metrics["reward"] if metrics["reward"] else 0.0
    metrics["reward_variance"] = metrics["reward_batch_std"] ** 2
    metrics["best_of_n_gap"] = metrics["best_of_n"] - metrics["reward"]
    for term in ("structural", "type_check", "compile", "tests"):
        metrics[f"reward_{term}"] = statistics.fmean(getattr(grade.terms, term) for grade in grades)
    return metrics | histogram(rewards) | verdict_shares(grades) | diversity(groups)


def passes_of(group: Group) -> list[bool]:
    """Return, per graded completion, True if it passes all tests."""
    return [grade.facts.verdict is Verdict.PASSED for grade in group.grades if grade is not None]


def histogram(rewards: Sequence[float]) -> dict[str, float]:
    """Return the share of rewards in each tenth of 0 to 1, ``reward_histogram/0`` to ``/9``; a reward of 1 is in the last."""
    counts = Counter(min(9, int(10 * reward + 1e-9)) for reward in rewards)
    return {f"reward_histogram/{tenth}": counts[tenth] / len(rewards) for tenth in range(10)}


def verdict_shares(grades: Sequence[Grade]) -> dict[str, float]:
    """Return the share of each verdict, ``verdict_<name>``, 0 if it does not occur."""
    counts = Counter(grade.facts.verdict for grade in grades)
    return {f"verdict_{verdict}": counts[verdict] / len(grades) for verdict in Verdict}


def step_metrics(
    groups: Sequence[Group],
    dropped: Sequence[DroppedGroup],
    report: StepReport,
    progress: Progress,
    times: Mapping[str, float],
) -> dict[str, float]:
    """Return all metrics of one step; ``times`` are the timeline's, with ``step_seconds``."""
    staleness = [report.step - 1 - group.policy_version for group in groups]
    seconds = times["step_seconds"]
    metrics = group_metrics(groups)
    num_tokens = metrics["completion_tokens"]
    wasted = wasted_tokens(dropped)
    return {
        **metrics,
        **report.metrics,
        **times,
        **wasted,
        **stage_seconds(groups),
        **signal_shares(groups, dropped),
        "tokens_per_second": num_tokens / seconds if seconds else 0.0,
        "completions_per_second": metrics["num_completions"] / seconds if seconds else 0.0,
        "frac_tokens_wasted": sum(wasted.values()) / (num_tokens + sum(wasted.values())),
        "mean_staleness": statistics.fmean(staleness),
        "max_staleness": float(max(staleness)),
        "num_asked_so_far": float(progress.num_asked),
        "num_under_way": float(progress.num_under_way),
        **{f"num_{outcome}_so_far": float(progress.outcomes.get(outcome, 0)) for outcome in Outcome},
    }


def signal_shares(groups: Sequence[Group], dropped: Sequence[DroppedGroup]) -> dict[str, float]:
    """Return shares of groups whose rewards are all equal, groups dropped by ``drop_groups_without_signal`` included.

    All completions of a group in ``frac_zero_std_solved`` pass: the problem is solved, which is not a collapse.
    """
    sampled = [
        *groups,
        *(dropped_group.group for dropped_group in dropped if dropped_group.drop.reason is DropReason.NO_SIGNAL),
    ]
    without_signal = [group for group in sampled if not group.has_signal]
    solved = [group for group in without_signal if group.rewards and all(passes_of(group))]
    return {
        "frac_zero_std_sampled": len(without_signal) / len(sampled),
        "frac_zero_std_solved": len(solved) / len(sampled),
    }


def wasted_tokens(dropped: Sequence[DroppedGroup]) -> dict[str, float]:
    """Return the tokens that were sampled and not trained, ``wasted_tokens_<outcome>``."""
    tokens: Counter[str] = Counter()
    for dropped_group in dropped:
        tokens[dropped_group.drop.outcome] += sum(
            len(completion.token_ids) for completion in dropped_group.group.completions
        )
    return {f"wasted_tokens_{outcome}": float(tokens[outcome]) for outcome in Outcome if outcome is not Outcome.TRAINED}


def stage_seconds(groups: Sequence[Group]) -> dict[str, float]:
    """Return mean seconds per completion in sampling and grading, and from the request to the reward."""
    graded = [
        (times.requested, times.sampled, times.graded)
        for group in groups
        for times in group.timestamps
        if times.graded is not None
    ]
    if not graded:
        return {}
    to_reward = [end - start for start, _, end in graded]
    return {
        "sampling_seconds": statistics.fmean(sampled - start for start, sampled, _ in graded),
        "grading_seconds": statistics.fmean(end - sampled for _, sampled, end in graded),
        "time_to_reward_seconds": statistics.fmean(to_reward),
        "time_to_reward_p95_seconds": percentile(to_reward, 0.95),
    }
