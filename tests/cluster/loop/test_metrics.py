import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.progress import Progress
from cluster.ledger.rows import rollout_schema
from cluster.loop.metrics import group_metrics, histogram, signal_shares, stage_seconds, step_metrics, wasted_tokens
from cluster.types import Drop, DropReason, StepReport, Timestamps
from tests.cluster.records import group


def test_rewards_are_averaged_over_graded_completions_only() -> None:
    metrics = group_metrics([group([1.0, 0.0, None]), group([0.5, 0.5])])
    assert metrics["reward"] == pytest.approx(0.5)
    assert metrics["num_ungradable"] == 1
    assert metrics["frac_zero_std"] == 0.5
    assert metrics["best_of_n"] == pytest.approx(0.75)
    assert metrics["reward_std"] == pytest.approx(math.sqrt(0.5) / 2)


def test_staleness_is_counted_from_the_version_that_the_step_started_from() -> None:
    report = StepReport(step=3, metrics={"loss": 0.1})
    groups = [group([0.0, 1.0], version=2), group([0.0, 1.0], version=1)]
    metrics = step_metrics(groups, [], report, Progress(), {"step_seconds": 2.0})
    assert (metrics["mean_staleness"], metrics["max_staleness"]) == (0.5, 1)
    assert metrics["loss"] == 0.1
    assert metrics["tokens_per_second"] == 8.0


def test_tokens_that_were_sampled_and_not_trained_are_counted_by_outcome() -> None:
    stale = DroppedGroup(group=group([0.0]), group_size=4, drop=Drop(DropReason.STALE))
    without_signal = DroppedGroup(group=group([0.0, 0.0]), group_size=2, drop=Drop(DropReason.NO_SIGNAL))
    assert wasted_tokens([stale, without_signal, without_signal]) == {
        "wasted_tokens_filtered": 16.0,
        "wasted_tokens_stale": 4.0,
        "wasted_tokens_failed": 0.0,
    }
    metrics = step_metrics(
        [group([0.0, 1.0])], [stale], StepReport(step=1, metrics={}), Progress(), {"step_seconds": 1}
    )
    assert metrics["frac_tokens_wasted"] == pytest.approx(4 / 12)


def test_tokens_in_thoughts_are_counted_over_graded_completions() -> None:
    one = group([1.0, 0.0, None])
    facts = [
        replace(grade.facts, num_thought_tokens=number)
        for grade, number in zip(one.grades, (30, None), strict=False)
        if grade
    ]
    grades = [replace(grade, facts=fact) for grade, fact in zip(one.grades, facts, strict=False) if grade]
    metrics = group_metrics([replace(one, grades=(*grades, None))])
    assert (metrics["thought_tokens"], metrics["mean_thought_length"], metrics["p95_thought_length"]) == (30, 15, 30)


def test_the_time_to_reward_is_computed_from_graded_completions() -> None:
    timestamps = (
        Timestamps(requested=10, sampled=12, graded=13),
        Timestamps(requested=10, sampled=14, graded=15),
        Timestamps(requested=10, sampled=99, graded=None),
    )
    seconds = stage_seconds([replace(group([0.0, 1.0, None]), timestamps=timestamps)])
    assert seconds == {
        "sampling_seconds": 3,
        "grading_seconds": 1,
        "time_to_reward_seconds": 4,
        "time_to_reward_p95_seconds": 5,
    }


def test_every_metric_of_a_step_is_documented() -> None:
    page = Path("docs/metrics.md").read_text(encoding="utf-8")
    documented = [re.escape(name).replace(r"\*", ".*") for name in re.findall(r"`([a-z0-9_*/]+)`", page)]
    without_signal = DroppedGroup(group=group([0.0, 0.0]), group_size=2, drop=Drop(DropReason.NO_SIGNAL))
    timestamps = (Timestamps(requested=10, sampled=12, graded=13),) * 2
    groups = [replace(group([0.0, 1.0]), timestamps=timestamps)]
    metrics = step_metrics(groups, [without_signal], StepReport(step=1, metrics={}), Progress(), {"step_seconds": 1})
    undocumented = [name for name in metrics if not any(re.fullmatch(one, name) for one in documented)]
    assert not undocumented


def test_every_column_of_the_ledger_is_documented() -> None:
    page = Path("docs/metrics.md").read_text(encoding="utf-8")
    assert [name for name in rollout_schema().names if f"`{name}`" not in page] == []


def test_groups_dropped_without_signal_count_in_the_shares() -> None:
    without_signal = DroppedGroup(group=group([0.2, 0.2]), group_size=2, drop=Drop(DropReason.NO_SIGNAL))
    stale = DroppedGroup(group=group([0.2, 0.2]), group_size=2, drop=Drop(DropReason.STALE))
    shares = signal_shares([group([0.0, 1.0]), group([0.3, 0.3])], [without_signal, stale])
    assert shares == {"frac_zero_std_sampled": pytest.approx(2 / 3), "frac_zero_std_solved": 0.0}


def test_a_group_that_passes_as_a_whole_is_solved() -> None:
    shares = signal_shares([group([1.0, 1.0]), group([0.0, 1.0]), group([0.0, 0.0]), group([None, None])], [])
    assert shares == {"frac_zero_std_sampled": 0.75, "frac_zero_std_solved": 0.25}


def test_passes_are_counted_by_completion_and_by_group() -> None:
    metrics = group_metrics([group([1.0, 0.0]), group([1.0, 1.0]), group([0.0, 0.0])])
    assert metrics["pass_rate"] == 0.5
    assert metrics["pass_at_group_size"] == pytest.approx(2 / 3)
    assert metrics["pass_at_all"] == pytest.approx(1 / 3)


def test_rewards_fall_into_tenths() -> None:
    shares = histogram([0.0, 0.05, 0.1, 0.3, 0.999, 1.0, 0.7, 0.6])
    assert [round(8 * shares[f"reward_histogram/{tenth}"]) for tenth in range(10)] == [2, 1, 0, 1, 0, 0, 1, 1, 0, 2]


def test_spread_and_gap_follow_from_the_rewards() -> None:
    metrics = group_metrics([group([0.0, 1.0]), group([0.5, 0.5])])
    assert metrics["reward_cv"] == pytest.approx(math.sqrt(0.5) / 2 / 0.5)
    assert metrics["best_of_n_gap"] == pytest.approx(0.25)
    assert metrics["reward_variance"] == pytest.approx(1 / 6)
    assert group_metrics([group([0.0, 0.0])])["reward_cv"] == 0
