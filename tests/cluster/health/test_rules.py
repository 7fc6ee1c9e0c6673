"""Health rules: the metrics of the two analyses give their diagnoses, and noise gives none."""

import math
from random import Random
from typing import Any

import pytest

from cluster.health.checks import RULES, CheckResult, check_run, last_change, worst
from cluster.health.history import History, Window, epochs_of
from cluster.health.rules import Health
from tests.cluster import baseline_analyses

HEALTHY = {
    "loss": -0.02,
    "grad_norm": 0.05,
    "entropy": 0.16,
    "reward": 0.45,
    "reward_std": 0.12,
    "best_of_n_gap": 0.18,
    "frac_zero_std": 0.05,
    "frac_zero_std_sampled": 0.05,
    "frac_zero_std_solved": 0.01,
    "distinct_share_renamed": 0.95,
    "pass_rate": 0.3,
    "frac_truncated": 0.02,
    "top_reward_share": 0.2,
    "top_program_share": 0.02,
    "verdict_no_code": 0.0,
    "verdict_syntax_error": 0.2,
    "num_groups": 8.0,
    "max_staleness": 0.0,
    "sampling/sampling_logp_difference/mean": 0.004,
}


def steps(
    num: int, *, first: int = 1, per_epoch: int = 100, noise: float = 0.0, **metrics: Any
) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl: healthy except for ``metrics``, with relative normal noise of deviation ``noise``."""
    random = Random(first)
    return [
        {name: value * (1 + random.gauss(0, noise)) for name, value in {**HEALTHY, **metrics}.items()}
        | {"step": step, "epoch": step / per_epoch}
        for step in range(first, first + num)
    ]


def results_by_rule(history: History) -> dict[str, CheckResult]:
    return {result.rule.id: result for result in check_run(history)}


def health(history: History) -> dict[str, Health]:
    return {name: result.health for name, result in results_by_rule(history).items()}


def test_the_first_analysis_metrics_give_its_diagnoses() -> None:
    """Mode collapse, low reward, high variation, unstable entropy; loss and gradient healthy; worth continuing with changes."""
    verdicts = health(baseline_analyses.first())
    assert {name for name, verdict in verdicts.items() if verdict is Health.WARN} == {
        "mode_collapse",
        "reward_level",
        "reward_spread",
        "entropy",
    }
    assert verdicts["gradient"] is verdicts["numbers"] is Health.OK
    assert worst(check_run(baseline_analyses.first())) is Health.WARN
    assessment = results_by_rule(baseline_analyses.first())["mode_collapse"].assessment
    assert "temperature" in assessment.action
    assert "group_size" in assessment.action
    assert "learning_rate" in results_by_rule(baseline_analyses.first())["reward_level"].assessment.action


def test_the_second_analysis_metrics_give_its_diagnoses() -> None:
    """Reward declining while the loss falls under a KL penalty, and a growing gap between best-of-n and mean."""
    history = baseline_analyses.second()
    verdicts = health(history)
    assert {name for name, verdict in verdicts.items() if verdict is Health.WARN} == {
        "kl_dominates",
        "reward_trend",
        "best_of_n_gap",
        "reward_level",
    }
    results = results_by_rule(history)
    assert "-5.4%" in results["reward_trend"].assessment.evidence
    assert "-7.5%" in results["kl_dominates"].assessment.evidence
    assert "0.2692 -> 0.2875" in results["best_of_n_gap"].assessment.evidence
    assert "reward_weight=2.0" in results["kl_dominates"].assessment.action
    assert "kl_coefficient=0.05" in results["kl_dominates"].assessment.action
    assert "reward_threshold=0.2" in results["best_of_n_gap"].assessment.action
    assert Health.STOP not in verdicts.values()


def test_the_first_analysis_metrics_at_epoch_1_would_be_stopped() -> None:
    history = baseline_analyses.first()
    at_epoch_1 = [
        {**row, "step": 1260 + row["step"], "epoch": 1.0, "frac_zero_std": row["frac_zero_std"] + 0.2}
        for row in history.steps
    ]
    verdicts = health(History(steps=at_epoch_1, settings=history.settings))
    assert verdicts["mode_collapse"] is verdicts["reward_level"] is Health.STOP


@pytest.mark.parametrize("num", [5, 20, 99, 100, 250])
def test_a_healthy_run_is_healthy(num: int) -> None:
    rows = steps(num, noise=0.1)
    history = History(steps=rows, epochs=epochs_of(rows), settings={"learner.kl_coefficient": 0.05})
    verdicts = health(history)
    assert set(verdicts.values()) <= {Health.OK, Health.NO_DATA}
    assert worst(check_run(history)) is Health.OK


@pytest.mark.parametrize("num", [0, 1, 4])
def test_the_first_steps_give_no_data(num: int) -> None:
    assert worst(check_run(History(steps=steps(num, reward=0.0, frac_zero_std_sampled=1.0)))) is Health.NO_DATA


def test_a_level_needs_a_minimum_number_of_groups() -> None:
    assert health(History(steps=steps(10, num_groups=1.0, reward=0.01)))["reward_level"] is Health.NO_DATA
    assert health(History(steps=steps(20, num_groups=1.0, reward=0.01)))["reward_level"] is Health.WARN


def test_noise_gives_no_trend() -> None:
    """400 flat runs of noisy rewards: one comparison in 700 exceeds three standard errors."""
    num_alarms = 0
    for seed in range(400):
        rows = steps(60, first=1 + 1000 * seed, per_epoch=10**9, noise=0.3)
        verdicts = health(History(steps=rows, settings={"learner.kl_coefficient": 0.1}))
        num_alarms += Health.WARN in (verdicts["reward_trend"], verdicts["kl_dominates"], verdicts["best_of_n_gap"])
    assert num_alarms <= 6


def test_a_decline_within_an_epoch_is_detected() -> None:
    rows = steps(40, per_epoch=1000, noise=0.05) + steps(40, first=41, per_epoch=1000, noise=0.05, reward=0.35)
    assert health(History(steps=rows))["reward_trend"] is Health.WARN


def test_a_decline_between_epochs_is_detected_even_if_the_latest_steps_hide_it() -> None:
    rows = steps(500, per_epoch=500, noise=0.3) + steps(500, first=501, per_epoch=500, noise=0.3, reward=0.40)
    verdict = results_by_rule(History(steps=rows, epochs=epochs_of(rows)))["reward_trend"]
    assert verdict.health is Health.WARN
    assert "epoch 1 -> epoch 2" in verdict.assessment.evidence


def test_steps_before_a_change_of_settings_are_not_used() -> None:
    rows = steps(50, reward=0.5) + steps(30, first=51, reward=0.2)
    assert health(History(steps=rows))["reward_trend"] is Health.WARN
    assert health(History(steps=rows, changed_at=50))["reward_trend"] is Health.NO_DATA
    assert health(History(steps=rows, changed_at=78))["reward_level"] is Health.NO_DATA


def test_a_ramp_counts_from_its_start() -> None:
    assert last_change([]) == 0
    warmer = {"rollout.temperature": 1.1}
    assert last_change([{"step": 10, "set": warmer}]) == 10
    assert last_change([{"step": step, "set": warmer} for step in (10, *range(40, 90))]) == 40
    assert last_change([{"step": 10, "set": warmer}, {"step": 60, "set": {"loop.max_steps": 200}}]) == 10


def test_groups_in_which_all_completions_pass_are_no_collapse() -> None:
    verdicts = health(History(steps=steps(120, frac_zero_std_sampled=0.5, frac_zero_std_solved=0.48)))
    assert verdicts["mode_collapse"] is Health.OK
    assert verdicts["solved_groups"] is Health.WARN


def test_dropped_groups_without_signal_count_as_collapsed() -> None:
    dropping = steps(40, per_epoch=100, frac_zero_std=0.0, frac_zero_std_sampled=0.4)
    assert health(History(steps=dropping))["mode_collapse"] is Health.WARN


def test_half_of_the_groups_may_lack_signal_at_the_start() -> None:
    assert health(History(steps=steps(10, per_epoch=1000, frac_zero_std_sampled=0.45)))["mode_collapse"] is Health.OK
    assert health(History(steps=steps(10, per_epoch=30, frac_zero_std_sampled=0.45)))["mode_collapse"] is Health.WARN


def test_different_programs_with_equal_rewards_indicate_problems_that_are_too_hard() -> None:
    rows = steps(40, per_epoch=100, frac_zero_std_sampled=0.6)
    assert "too hard" in results_by_rule(History(steps=rows))["mode_collapse"].assessment.action
    similar = steps(40, per_epoch=100, frac_zero_std_sampled=0.6, distinct_share_renamed=0.3)
    assert "temperature" in results_by_rule(History(steps=similar))["mode_collapse"].assessment.action


@pytest.mark.parametrize(
    ("rule", "metrics", "expected"),
    [
        ("filibuster", {"frac_truncated": 0.79}, Health.OK),
        ("filibuster", {"frac_truncated": 0.85}, Health.WARN),
        ("filibuster", {"frac_truncated": 1.0}, Health.STOP),
        ("passes", {"pass_rate": 0.0}, Health.STOP),
        ("passes", {"pass_rate": 0.05}, Health.WARN),
        ("reward_level", {"reward": 0.1}, Health.STOP),
        ("reward_level", {"reward": 0.3}, Health.WARN),
        ("mode_collapse", {"frac_zero_std_sampled": 0.35}, Health.STOP),
        ("mode_collapse", {"frac_zero_std_sampled": 0.2}, Health.WARN),
        ("gibberish", {"verdict_syntax_error": 0.97}, Health.STOP),
        ("gradient", {"grad_norm": 20.0}, Health.STOP),
        ("gradient", {"grad_norm": 0.8}, Health.WARN),
        ("gradient", {"grad_norm": 0.001}, Health.WARN),
        ("entropy", {"entropy": 0.05}, Health.WARN),
        ("entropy", {"entropy": 0.5}, Health.WARN),
        ("reward_spread", {"reward_std": 0.3}, Health.WARN),
        ("one_reward", {"top_reward_share": 0.6}, Health.WARN),
        ("one_program", {"top_program_share": 0.6}, Health.WARN),
        ("mismatch", {"sampling/sampling_logp_difference/mean": 0.06}, Health.WARN),
        ("numbers", {"loss": math.nan}, Health.STOP),
        ("numbers", {"grad_norm": math.inf}, Health.STOP),
    ],
)
def test_each_threshold_applies_at_the_end_of_the_first_epoch(
    rule: str, metrics: dict[str, Any], expected: Health
) -> None:
    verdicts = health(History(steps=steps(120, per_epoch=100, **metrics)))
    assert verdicts.pop(rule) is expected
    related = {"gradient", "one_program"} if rule == "numbers" else {"reward_spread", "reward_trend"}
    assert {name for name, verdict in verdicts.items() if verdict in (Health.WARN, Health.STOP)} <= related


def test_a_small_data_set_is_not_stopped_early_for_its_short_epochs() -> None:
    early = health(History(steps=steps(50, per_epoch=5, reward=0.05, pass_rate=0.0)))
    assert early["reward_level"] is early["passes"] is Health.WARN
    late = health(History(steps=steps(100, per_epoch=5, reward=0.05, pass_rate=0.0)))
    assert late["reward_level"] is late["passes"] is Health.STOP


def test_a_dominant_reward_stops_a_run_only_if_its_share_grew() -> None:
    taken_over = steps(40) + steps(20, first=41, top_reward_share=0.85)
    assert health(History(steps=taken_over))["one_reward"] is Health.STOP
    weak_from_the_start = steps(60, top_reward_share=0.85)
    assert health(History(steps=weak_from_the_start))["one_reward"] is Health.WARN


def test_expected_differences_between_policies_are_no_mismatch() -> None:
    metrics: dict[str, Any] = {"max_staleness": 1.0, "sampling/sampling_logp_difference/mean": 0.3}
    one_off = steps(30, **metrics)
    assert health(History(steps=one_off))["mismatch"] is Health.NO_DATA
    assert health(History(steps=one_off, weight_sync_gaps=[0.001] * 5))["mismatch"] is Health.OK
    assert health(History(steps=one_off, weight_sync_gaps=[0.2] * 5))["mismatch"] is Health.WARN


def test_a_diverged_step_stops_the_run() -> None:
    assert health(History(steps=steps(10), diverged_at=11))["numbers"] is Health.STOP


def test_a_run_without_kl_term_is_not_dominated_by_it() -> None:
    falling = [epoch_of(6.0, loss=0.2, reward=0.3), epoch_of(7.0, loss=0.1, reward=0.2)]
    assert health(History(epochs=falling, settings={"learner.kl_coefficient": 0.0}))["kl_dominates"] is Health.OK
    assert health(History(epochs=falling, settings={"learner.kl_coefficient": 0.1}))["kl_dominates"] is Health.WARN
    assert health(History(epochs=falling))["kl_dominates"] is Health.NO_DATA


def test_non_finite_metrics_are_not_checked() -> None:
    falling = [epoch_of(6.0, loss=0.2, reward=0.3), epoch_of(7.0, loss=0.1, reward=0.2)]
    assert (
        health(History(epochs=falling, settings={"learner.kl_coefficient": "5e-2"}))["kl_dominates"] is Health.NO_DATA
    )
    odd = [{**row, "loss": None, "grad_norm": "low"} for row in steps(10)]
    assert health(History(steps=odd))["numbers"] is Health.OK
    assert health(History(steps=[*odd, {**odd[-1], "reward": math.nan}]))["numbers"] is Health.STOP


def test_only_complete_epochs_are_returned() -> None:
    rows = steps(250, per_epoch=100)
    assert [(one.name, one.num_steps, one.first_step) for one in epochs_of(rows)] == [
        ("epoch 1", 100, 1),
        ("epoch 2", 100, 101),
    ]


def test_every_rule_has_a_source_of_its_threshold() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert all(rule.source and rule.threshold and rule.measures for rule in RULES)


def epoch_of(number: float, **means: float) -> Window:
    return Window(name=f"epoch {number:g}", means={"epoch": number, **means})
