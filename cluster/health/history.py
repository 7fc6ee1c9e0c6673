"""Input of the health checks: metrics of a run's steps, and their means over windows of steps.

A single step is a small sample, so no rule uses one: levels are means over the last LEVEL_STEPS steps, and trends compare two
windows and require a difference that is significant given the spread of the steps.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.ledger.jsonl import is_finite

LEVEL_STEPS = 20
"""Number of steps in the mean of a level."""

MIN_LEVEL_STEPS, MIN_LEVEL_GROUPS = 5, 20
"""Minimum number of steps, and of groups in them, for a level. The first analysis uses six steps of four groups."""

TREND_STEPS, MIN_TREND_STEPS = 100, 20
"""Maximum and minimum number of steps in each of two compared windows; 100 is the first analysis' time for an effect."""

SIGNIFICANT = 3.0
"""Standard errors of a significant difference: chance alone exceeds it once in 700 comparisons, and a run makes many."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Means of metrics over consecutive steps.

    ``errors``: standard errors of the means. A metric without one (an epoch of which only means are known) counts as exact.
    """

    name: str  # "epoch 7", "steps 31-60"
    means: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    first_step: float = math.inf  # infinity: unknown
    num_steps: int | None = None  # None: unknown

    @classmethod
    def of(cls, name: str, rows: Sequence[Row], names: Iterable[str]) -> "Window":
        """Return the means of these metrics over at least one step, without missing and non-finite values."""
        values = {key: [row[key] for row in rows if is_finite(row.get(key))] for key in names}
        return cls(
            name=name,
            means={key: statistics.fmean(found) for key, found in values.items() if found},
            errors={key: _standard_error(found) for key, found in values.items() if len(found) > 1},
            first_step=rows[0].get("step", math.inf),
            num_steps=len(rows),
        )

    def as_row(self) -> dict[str, Any]:
        """Return means and standard errors for JSON."""
        names = [name for name in self.means if name not in ("step", "epoch")]
        errors = {name: self.errors[name] for name in names if name in self.errors}
        return {
            "num_steps": self.num_steps,
            "means": {name: self.means[name] for name in names},
            "standard_errors": errors,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Change of a metric between two windows."""

    between: str  # the names of the two
    before: float
    now: float
    error: float  # standard error of the difference; 0: unknown

    @property
    def falls(self) -> bool:
        """True if it is significantly lower now."""
        return self.now < self.before and self.before - self.now > SIGNIFICANT * self.error

    @property
    def rises(self) -> bool:
        """True if it is significantly higher now."""
        return self.now > self.before and self.now - self.before > SIGNIFICANT * self.error

    @property
    def relative(self) -> str:
        """The relative change as text, " (+1.0%)"; empty if the metric was 0."""
        return f" ({(self.now - self.before) / abs(self.before):+.1%})" if self.before else ""

    def __str__(self) -> str:
        return f"{self.before:.4f} -> {self.now:.4f}{self.relative}, {self.between}"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Metrics and settings of a run so far; ``steps`` and ``epochs`` are oldest first."""

    steps: Sequence[Row] = ()  # rows of metrics.jsonl, each with its ``step``
    epochs: Sequence[Window] = ()  # complete ones
    settings: Mapping[str, Any] = field(default_factory=dict)  # active ones by dotted key; unknown ones are absent
    changed_at: int = 0  # the step after which settings last changed; rules use later steps only
    weight_sync_gaps: Sequence[float] = ()  # of the latest publishes, nats
    diverged_at: int | None = None  # next step, if the learner refused it as diverged

    @property
    def epoch(self) -> float | None:
        """Passes over the problems so far; None before the first step."""
        if self.steps and "epoch" in self.steps[-1]:
            return float(self.steps[-1]["epoch"])
        return float(self.epochs[-1].means["epoch"]) if self.epochs else None

    def level_steps(self, *names: str) -> list[Row]:
        """Return the last steps under the current settings that have all of these metrics; empty if they are too few."""
        rows = [
            row
            for row in self.steps[-LEVEL_STEPS:]
            if row["step"] > self.changed_at and all(is_finite(row.get(name)) for name in names)
        ]
        num_groups = sum(row.get("num_groups", MIN_LEVEL_GROUPS / MIN_LEVEL_STEPS) for row in rows)
        return rows if len(rows) >= MIN_LEVEL_STEPS and num_groups >= MIN_LEVEL_GROUPS else []

    def level(self, name: str) -> float | None:
        """Return the mean of a metric over the last steps, or over the last epoch if only epochs are known; None: unknown."""
        rows = self.level_steps(name)
        if rows:
            return statistics.fmean(row[name] for row in rows)
        if not self.steps and self.epochs:
            return self.epochs[-1].means.get(name)
        return None

    def first_level(self, name: str) -> float | None:
        """Return the mean of a metric over the first steps; None if it is unknown or the latest steps overlap with them."""
        rows = [row for row in self.steps[:LEVEL_STEPS] if is_finite(row.get(name))]
        return statistics.fmean(row[name] for row in rows) if len(self.steps) >= 2 * LEVEL_STEPS and rows else None

    def pairs(self, *names: str) -> list[tuple[Window, Window]]:
        """Return pairs of windows to compare: the last two complete epochs, and the latest steps with those before them.

        All steps are after the last change of settings, since a changed reward or temperature changes the metrics by itself.
        """
        found = []
        complete = self.epochs[-2:]
        if len(complete) == 2 and all(self._is_comparable(epoch) for epoch in complete):
            found.append((complete[0], complete[1]))
        num_after = sum(row["step"] > self.changed_at for row in self.steps[-2 * TREND_STEPS :])
        half = num_after // 2
        if half >= MIN_TREND_STEPS:
            before, now = self.steps[-2 * half : -half], self.steps[-half:]
            found.append((Window.of(_steps(before), before, names), Window.of(_steps(now), now, names)))
        return found

    def _is_comparable(self, epoch: Window) -> bool:
        has_steps = epoch.num_steps is None or epoch.num_steps >= MIN_TREND_STEPS
        return has_steps and epoch.first_step > self.changed_at


def change(pair: tuple[Window, Window], name: str) -> Change | None:
    """Return the change of a metric between two windows; None if one of them does not have it."""
    before, now = pair
    if name not in before.means or name not in now.means:
        return None
    return Change(
        between=f"{before.name} -> {now.name}",
        before=before.means[name],
        now=now.means[name],
        error=math.hypot(before.errors.get(name, 0.0), now.errors.get(name, 0.0)),
    )


class Epochs:
    """Groups steps into epochs; an epoch is complete at the step by which all of its problems have been sampled."""

    def __init__(self) -> None:
        self._rows: list[Row] = []  # of the current epoch

    def add(self, row: Row) -> Window | None:
        """Add a step; return the epoch that it completes, with the means of all its metrics."""
        number = _epoch_of(row)
        if self._rows and number > _epoch_of(self._rows[-1]):  # an epoch rarely ends exactly at the end of a step
            closed, self._rows = self._close(), [row]
            return closed
        self._rows.append(row)
        if float(row["epoch"]) < number - 1e-9:
            return None
        closed, self._rows = self._close(), []
        return closed

    def _close(self) -> Window:
        return Window.of(f"epoch {_epoch_of(self._rows[-1])}", self._rows, self._rows[-1].keys())


def epochs_of(rows: Iterable[Row]) -> list[Window]:
    """Return the complete epochs among steps."""
    epochs = Epochs()
    return [closed for closed in map(epochs.add, rows) if closed]


def _epoch_of(row: Row) -> int:
    """Return the number of the epoch that a step belongs to, from 1."""
    return max(1, math.ceil(float(row["epoch"]) - 1e-9))


def _standard_error(values: Sequence[float]) -> float:
    """Return the standard error of the mean, without statistics.stdev, which computes in fractions and is slow."""
    mean = statistics.fmean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def _steps(rows: Sequence[Row]) -> str:
    return f"steps {rows[0]['step']:g}-{rows[-1]['step']:g}"
