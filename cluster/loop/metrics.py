"""What a step measured, as numbers: pure functions of groups and of the learner's report.

Standard deviations are TRL's: with one degree of freedom taken off, 0 for a single value.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from cluster.ledger.outcomes import Dropped
from cluster.ledger.progress import Progress
from cluster.loop.diversity import diversity
from cluster.loop.filters import NO_SIGNAL
from cluster.types import FinishReason, Grade, Group, Outcome, StepReport, Verdict


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that this share (0 to 1) of them does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards, outcomes and lengths of the groups that one step trains. Shares are 0 to 1, lengths are tokens.

    Raises statistics.StatisticsError where nothing was graded, which is no batch.
    """
    grades = [grade for group in groups for grade in group.grades if grade is not None]
    completions = [completion for group in groups for completion in group.completions]
    rewards = [grade.reward for grade in grades]
    per_group = [group.rewards for group in groups if group.rewards]
    passes = [passes_of(group) for group in groups if group.rewards]
    lengths = [len(completion.token_ids) for completion in completions]
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
    }
    metrics["reward_cv"] = metrics["reward_std"] / metrics["reward"] if metrics["reward"] else 0.0
    metrics["reward_variance"] = metrics["reward_batch_std"] ** 2
    metrics["best_of_n_gap"] = metrics["best_of_n"] - metrics["reward"]
    for term in ("structural", "type_check", "compile", "tests"):
        metrics[f"reward_{term}"] = statistics.fmean(getattr(grade.terms, term) for grade in grades)
    return metrics | histogram(rewards) | verdict_shares(grades) | diversity(groups)


def passes_of(group: Group) -> list[bool]:
    """Whether each graded completion passes all tests."""
    return [grade.facts.verdict is Verdict.PASSED for grade in group.grades if grade is not None]


def histogram(rewards: Sequence[float]) -> dict[str, float]:
    """Share of rewards in each tenth of 0 to 1, under ``reward_histogram/0`` to ``/9``; 1 belongs to the last."""
    counts = Counter(min(9, int(10 * reward + 1e-9)) for reward in rewards)
    return {f"reward_histogram/{tenth}": counts[tenth] / len(rewards) for tenth in range(10)}


def verdict_shares(grades: Sequence[Grade]) -> dict[str, float]:
    """Share of each verdict, under ``verdict_<name>``; every verdict is there, with 0 too."""
    counts = Counter(grade.facts.verdict for grade in grades)
    return {f"verdict_{verdict}": counts[verdict] / len(grades) for verdict in Verdict}


def step_metrics(
    groups: Sequence[Group],
    dropped: Sequence[Dropped],
    report: StepReport,
    progress: Progress,
    figures: Mapping[str, float],
) -> dict[str, float]:
    """Everything about one step in one flat mapping; ``figures`` are the timeline's, with ``step_seconds`` among them."""
    staleness = [report.step - 1 - group.policy_version for group in groups]
    seconds = figures["step_seconds"]
    metrics = group_metrics(groups)
    num_tokens = metrics["completion_tokens"]
    wasted = wasted_tokens(dropped)
    return {
        **metrics,
        **report.metrics,
        **figures,
        **wasted,
        **hop_seconds(groups),
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


def signal_shares(groups: Sequence[Group], dropped: Sequence[Dropped]) -> dict[str, float]:
    """Shares of groups whose rewards are all equal, those included that were dropped for it (``drop_groups_without_signal``).

    In ``frac_zero_std_solved`` everything passes: nothing is left to teach, which is no collapse.
    """
    sampled = [*groups, *(one.group for one in dropped if one.reason == NO_SIGNAL)]
    silent = [group for group in sampled if not group.has_signal]
    return {
        "frac_zero_std_sampled": len(silent) / len(sampled),
        "frac_zero_std_solved": sum(bool(group.rewards) and all(passes_of(group)) for group in silent) / len(sampled),
    }


def wasted_tokens(dropped: Sequence[Dropped]) -> dict[str, float]:
    """Completion tokens that were sampled and not trained, under ``wasted_tokens_<outcome>``."""
    tokens: Counter[str] = Counter()
    for one in dropped:
        tokens[one.outcome] += sum(len(completion.token_ids) for completion in one.group.completions)
    return {f"wasted_tokens_{outcome}": float(tokens[outcome]) for outcome in Outcome if outcome is not Outcome.TRAINED}


def hop_seconds(groups: Sequence[Group]) -> dict[str, float]:
    """Mean seconds of a completion in each part, and from being asked for to its reward."""
    timestamps = [hop for group in groups for hop in group.timestamps if hop.graded is not None]
    if not timestamps:
        return {}
    to_reward = [hop.graded - hop.requested for hop in timestamps if hop.graded is not None]
    return {
        "sampling_seconds": statistics.fmean(hop.sampled - hop.requested for hop in timestamps),
        "grading_seconds": statistics.fmean(hop.graded - hop.sampled for hop in timestamps if hop.graded is not None),
        "time_to_reward_seconds": statistics.fmean(to_reward),
        "time_to_reward_p95_seconds": percentile(to_reward, 0.95),
    }
