"""What a step measured, as numbers: pure functions of groups and of the learner's report.

Standard deviations are TRL's: with one degree of freedom taken off, 0 for a single value.
"""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from cluster.types import FinishReason, Grade, Group, StepReport, Verdict


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


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


def step_metrics(groups: Sequence[Group], report: StepReport, timings: Mapping[str, float]) -> dict[str, float]:
    """Everything about one step in one flat mapping: groups, learner, seconds, staleness."""
    staleness = [report.step - 1 - group.policy_version for group in groups]
    seconds = sum(timings.values())
    metrics = group_metrics(groups)
    return {
        **metrics,
        **report.metrics,
        **timings,
        "step_seconds": seconds,
        "tokens_per_second": metrics["completion_tokens"] / seconds if seconds else 0.0,
        "mean_staleness": statistics.fmean(staleness),
    }
