"""Comparison of an epoch with the previous one."""

from cluster.health.comparison import as_cells, compare, latest
from cluster.health.history import History
from tests.cluster import baseline_analyses
from tests.cluster.health.test_rules import steps


def test_the_table_of_the_second_analysis_is_reproduced() -> None:
    pair = latest(baseline_analyses.second())
    assert pair is not None
    rows = {row[0]: row[1:] for row in as_cells(compare(pair))}
    assert rows["average reward"] == ("0.2537", "0.2401", "-0.0136 (-5.4%)", "declining")
    assert rows["best-of-n reward"] == ("0.5229", "0.5276", "+0.0047 (+0.9%)", "improving")
    assert rows["average loss"] == ("0.1735", "0.1605", "-0.0130 (-7.5%)", "falling")
    assert rows["reward variance"][2:] == ("-0.0061 (-8.0%)", "more stable")
    assert rows["gap to the best"] == ("0.2692", "0.2875", "+0.0183 (+6.8%)", "widening")


def test_a_falling_metric_is_good_or_bad_depending_on_the_metric() -> None:
    pair = latest(baseline_analyses.second())
    assert pair is not None
    good = {one.metric.name: one.is_good for one in compare(pair)}
    assert good == {"reward": False, "best_of_n": True, "best_of_n_gap": False, "loss": None, "reward_variance": True}


def test_changes_within_the_noise_are_stable() -> None:
    pair = latest(History(steps=steps(80, noise=0.2)))
    assert pair is not None
    assert {one.word for one in compare(pair)} == {"stable"}


def test_too_few_steps_are_not_compared() -> None:
    assert latest(History(steps=steps(39))) is None
