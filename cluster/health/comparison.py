"""Comparison of two windows of a run, with a status for each metric: the table of the second training analysis."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.health.history import Change, History, Window, change

RISE_IS_GOOD, FALL_IS_GOOD, NEITHER = 1, -1, 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A row of the table: a metric, its good direction, and the words for better, stable and worse."""

    name: str
    label: str
    good: int
    words: tuple[str, str, str]
    hides_zero: bool = False  # no row if it is 0 in both windows


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A metric in both windows."""

    metric: Metric
    change: Change
    word: str
    is_good: bool | None  # None: neither direction is good


PROGRESS = ("improving", "stable", "declining")
AMOUNT = ("fewer", "stable", "more")
MOVE = ("rising", "stable", "falling")
STABILITY = ("more stable", "stable", "less stable")
METRICS = (
    Metric(name="reward", label="average reward", good=RISE_IS_GOOD, words=PROGRESS),
    Metric(name="best_of_n", label="best-of-n reward", good=RISE_IS_GOOD, words=PROGRESS),
    Metric(name="best_of_n_gap", label="gap to the best", good=FALL_IS_GOOD, words=("narrowing", "stable", "widening")),
    Metric(name="loss", label="average loss", good=NEITHER, words=MOVE),
    Metric(name="reward_variance", label="reward variance", good=FALL_IS_GOOD, words=STABILITY),
    Metric(
        name="distinct_share", label="code diversity", good=RISE_IS_GOOD, words=("growing", "maintained", "shrinking")
    ),
    Metric(name="frac_zero_std_sampled", label="groups without signal", good=FALL_IS_GOOD, words=AMOUNT),
    Metric(name="pass_rate", label="passed all tests", good=RISE_IS_GOOD, words=PROGRESS),
    Metric(name="pass_at_group_size", label="solved once in a group", good=RISE_IS_GOOD, words=PROGRESS),
    Metric(name="entropy", label="entropy", good=NEITHER, words=MOVE),
    Metric(name="kl", label="KL divergence", good=NEITHER, words=MOVE),
    Metric(name="mean_length", label="tokens per completion", good=NEITHER, words=("longer", "stable", "shorter")),
    Metric(
        name="mean_thought_length",
        label="tokens in thoughts",
        good=NEITHER,
        words=("longer", "stable", "shorter"),
        hides_zero=True,
    ),
    Metric(name="frac_truncated", label="truncated", good=FALL_IS_GOOD, words=AMOUNT),
)


def compare(pair: tuple[Window, Window]) -> list[Compared]:
    """Compare the metrics that both windows have. A difference that is not significant counts as stable."""
    found = []
    for metric in METRICS:
        moved = change(pair, metric.name)
        if moved and not (metric.hides_zero and moved.before == moved.now == 0):
            direction = moved.rises - moved.falls
            better, same, worse = metric.words
            if metric.good == NEITHER:
                word, is_good = (same, better, worse)[direction], None
            else:
                word, is_good = (same, better, worse)[direction * metric.good], direction != -metric.good
            found.append(Compared(metric=metric, change=moved, word=word, is_good=is_good))
    return found


def latest(history: History) -> tuple[Window, Window] | None:
    """Return the last two complete epochs, else the latest steps and those before them; None: not enough data."""
    names = [metric.name for metric in METRICS]
    return next(iter(history.pairs(*names)), None)


def as_cells(compared: Sequence[Compared]) -> list[tuple[str, str, str, str, str]]:
    """Return table cells: metric, before, now, change, status."""
    cells = []
    for comparison in compared:
        before, now = comparison.change.before, comparison.change.now
        difference = f"{now - before:+.4f}{comparison.change.relative}"
        cells.append((comparison.metric.label, f"{before:.4f}", f"{now:.4f}", difference, comparison.word))
    return cells
