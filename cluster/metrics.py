"""What a step measured, as numbers: pure functions of groups and of the learner's report.

Standard deviations are TRL's: with one degree of freedom taken off, 0 for a single value.
"""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from cluster.buffer import Dropped
from cluster.progress import Progress
from cluster.types import Fate, FinishReason, Grade, Group, StepReport, Verdict


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that this share (0 to 1) of them does not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """Rewards, outcomes and lengths of the groups that one step trains. Shares are 0 to 1, lengths are tokens."""
    grades = [grade for group in groups for grade in group.grades if grade is not None]
    completions = [completion for group in groups for completion in group.completions]
    rewards = [grade.reward for grade in grades]
    per_group = [group.rewards for group in groups if group.rewards]
    lengths = [len(completion.token_ids) for completion in completions]
    truncated = sum(completion.finish_reason is FinishReason.LENGTH for completion in completions)
    metrics = {
        "reward": statistics.fmean(rewards),
        "reward_std": statistics.fmean(spread(group) for group in per_group),
        "reward_batch_std": spread(rewards),
        "best_of_n": statistics.fmean(max(group) for group in per_group),
        "frac_zero_std": sum(not group.has_signal for group in groups) / len(groups),
        "pass_rate": sum(grade.facts.verdict is Verdict.PASSED for grade in grades) / len(grades),
        "num_completions": float(len(completions)),
        "num_ungradable": float(len(completions) - len(grades)),
        "completion_tokens": float(sum(lengths)),
        "mean_length": statistics.fmean(lengths),
        "frac_truncated": truncated / len(completions),
    }
    for term in ("structural", "type_check", "compile", "tests"):
        metrics[f"reward_{term}"] = statistics.fmean(getattr(grade.terms, term) for grade in grades)
    return metrics | verdict_shares(grades)


def verdict_shares(grades: Sequence[Grade]) -> dict[str, float]:
    """Share of each verdict, under ``verdict_<name>``; every verdict is there, with 0 too."""
    counts = Counter(grade.facts.verdict for grade in grades)
    return {f"verdict_{verdict}": counts[verdict] / len(grades) for verdict in Verdict}


def learning_log_line(epoch: float, metrics: Mapping[str, float]) -> str:
    """One line of learning.log, in the format of the two training analyses.

    ``reward`` has the mean spread within groups behind it, ``syntax_rew`` the spread over the batch, as TRL logs them.
    """

    def number(name: str, form: str) -> str:
        value = metrics.get(name)
        return "nan" if value is None else format(value, form)

    return (
        f"[Epoch {epoch:.2f}]  loss={number('loss', '.4f')}  grad={number('grad_norm', '.4f')}  "
        f"lr={number('learning_rate', '.2e')}  reward={number('reward', '.3f')}±{number('reward_std', '.3f')}  "
        f"syntax_rew={number('reward', '.3f')}±{number('reward_batch_std', '.3f')}  "
        f"entropy={number('entropy', '.3f')}  frac_zero_std={number('frac_zero_std', '.2f')}"
    )


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
        "tokens_per_second": num_tokens / seconds if seconds else 0.0,
        "completions_per_second": metrics["num_completions"] / seconds if seconds else 0.0,
        "frac_tokens_wasted": sum(wasted.values()) / (num_tokens + sum(wasted.values())),
        "mean_staleness": statistics.fmean(staleness),
        "max_staleness": float(max(staleness)),
        "num_asked_so_far": float(progress.num_asked),
        "num_under_way": float(progress.num_under_way),
        **{f"num_{fate}_so_far": float(progress.fates.get(fate, 0)) for fate in Fate},
    }


def wasted_tokens(dropped: Sequence[Dropped]) -> dict[str, float]:
    """Completion tokens that were sampled and not trained, under ``wasted_tokens_<fate>``."""
    tokens: Counter[str] = Counter()
    for one in dropped:
        tokens[one.fate] += sum(len(completion.token_ids) for completion in one.group.completions)
    return {f"wasted_tokens_{fate}": float(tokens[fate]) for fate in Fate if fate is not Fate.TRAINED}


def hop_seconds(groups: Sequence[Group]) -> dict[str, float]:
    """Mean seconds of a completion in each part, and from being asked for to its reward."""
    hops = [hop for group in groups for hop in group.hops if hop.graded is not None]
    if not hops:
        return {}
    to_reward = [hop.graded - hop.asked for hop in hops if hop.graded is not None]
    return {
        "sampling_seconds": statistics.fmean(hop.sampled - hop.asked for hop in hops),
        "grading_seconds": statistics.fmean(hop.graded - hop.sampled for hop in hops if hop.graded is not None),
        "time_to_reward_seconds": statistics.fmean(to_reward),
        "time_to_reward_p95_seconds": percentile(to_reward, 0.95),
    }
