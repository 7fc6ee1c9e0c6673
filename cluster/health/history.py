"""What the rules of health look at: the figures of a run's steps, and their means over stretches of steps.

A single step is a small sample, so that no rule looks at one: levels are means over the last LEVEL_STEPS steps, and trends
compare two stretches and ask whether the difference is larger than what the steps differ by themselves.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.ledger.jsonl import is_finite

LEVEL_STEPS = 20
"""Steps that a level is the mean of."""

MIN_LEVEL_STEPS, MIN_LEVEL_GROUPS = 5, 20
"""Fewer steps, or fewer groups in them, say nothing yet. The first analysis judges by six steps of four groups."""

TREND_STEPS, MIN_TREND_STEPS = 100, 20
"""Steps in each of two stretches that are compared, at most and at least; the first analysis gives a change 100 steps to show."""

SIGNIFICANT = 3.0
"""Standard errors that a difference must have: chance alone gives that once in 700 comparisons, and a run makes many."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Means of the figures of some steps.

    ``errors`` are the standard errors of the means; a figure without one (of an epoch that is known by its mean) is taken as it
    is.
    """

    name: str  # "epoch 7", "steps 31-60"
    means: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    first_step: float = math.inf  # infinity: not told
    num_steps: int | None = None  # None: not told

    @classmethod
    def of(cls, name: str, rows: Sequence[Row], names: Iterable[str]) -> "Window":
        """These figures of at least one step; values that are no numbers are left out."""
        values = {key: [row[key] for row in rows if is_finite(row.get(key))] for key in names}
        return cls(
            name=name,
            means={key: statistics.fmean(found) for key, found in values.items() if found},
            errors={key: _standard_error(found) for key, found in values.items() if len(found) > 1},
            first_step=rows[0].get("step", math.inf),
            num_steps=len(rows),
        )

    def as_row(self) -> dict[str, Any]:
        """For JSON: the means, and the standard errors of those that have one."""
        names = [name for name in self.means if name not in ("step", "epoch")]
        errors = {name: self.errors[name] for name in names if name in self.errors}
        return {
            "num_steps": self.num_steps,
            "means": {name: self.means[name] for name in names},
            "standard_errors": errors,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How a figure differs between two stretches."""

    between: str  # the names of the two
    before: float
    now: float
    error: float  # standard error of the difference; 0 where it is not known

    @property
    def falls(self) -> bool:
        """Whether it is lower now, by more than chance."""
        return self.now < self.before and self.before - self.now > SIGNIFICANT * self.error

    @property
    def rises(self) -> bool:
        """Whether it is higher now, by more than chance."""
        return self.now > self.before and self.now - self.before > SIGNIFICANT * self.error

    @property
    def relative(self) -> str:
        """The difference as a share of what it was before, in brackets behind a space; empty where that was 0."""
        return f" ({(self.now - self.before) / abs(self.before):+.1%})" if self.before else ""

    def __str__(self) -> str:
        return f"{self.before:.4f} -> {self.now:.4f}{self.relative}, {self.between}"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A run so far; ``steps`` and ``epochs`` are oldest first."""

    steps: Sequence[Row] = ()  # rows of metrics.jsonl, each with its ``step``
    epochs: Sequence[Window] = ()  # complete ones
    settings: Mapping[str, Any] = field(
        default_factory=dict
    )  # by dotted key, as they are in force now; what is unknown is not there
    changed_at: int = 0  # the step after which settings last changed: what was measured before says nothing of them
    weight_sync_gaps: Sequence[float] = ()  # of the latest publishes, nats
    diverged_at: int | None = (
        None  # the step that was not taken because its numbers had gone wrong, where the run stands there
    )

    @property
    def epoch(self) -> float | None:
        """Passes over the problems so far; None before the first step."""
        if self.steps and "epoch" in self.steps[-1]:
            return float(self.steps[-1]["epoch"])
        return float(self.epochs[-1].means["epoch"]) if self.epochs else None

    def level_steps(self, *names: str) -> list[Row]:
        """The last steps under the settings in force that have all of these figures; empty where they are too few to judge by."""
        rows = [
            row
            for row in self.steps[-LEVEL_STEPS:]
            if row["step"] > self.changed_at and all(is_finite(row.get(name)) for name in names)
        ]
        num_groups = sum(row.get("num_groups", MIN_LEVEL_GROUPS / MIN_LEVEL_STEPS) for row in rows)
        return rows if len(rows) >= MIN_LEVEL_STEPS and num_groups >= MIN_LEVEL_GROUPS else []

    def level(self, name: str) -> float | None:
        """The mean of a figure over the last steps, or over the last epoch where only epochs are known; None: not known yet."""
        rows = self.level_steps(name)
        if rows:
            return statistics.fmean(row[name] for row in rows)
        if not self.steps and self.epochs:
            return self.epochs[-1].means.get(name)
        return None

    def first_level(self, name: str) -> float | None:
        """The mean of a figure over the first steps of the run, where the latest ones are others; None: not known."""
        rows = [row for row in self.steps[:LEVEL_STEPS] if is_finite(row.get(name))]
        return statistics.fmean(row[name] for row in rows) if len(self.steps) >= 2 * LEVEL_STEPS and rows else None

    def pairs(self, *names: str) -> list[tuple[Window, Window]]:
        """The stretches that trends of figures are read from, each with the one before it.

        The last complete epoch, and the latest steps. They lie after the last change of settings: a change of the reward or the
        temperature moves the figures by itself.
        """
        found = []
        complete = self.epochs[-2:]
        if len(complete) == 2 and all(self._is_comparable(one) for one in complete):
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
    """How a figure moved from one stretch to the other; None where one of them does not have it."""
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
    """Gathers steps into epochs; an epoch is complete with the step at which all of its problems have been asked."""

    def __init__(self) -> None:
        self._rows: list[Row] = []  # of the epoch under way

    def add(self, row: Row) -> Window | None:
        """Take in a step; returns the epoch that it completes, with the means of all its figures."""
        number = _epoch_of(row)
        if self._rows and number > _epoch_of(
            self._rows[-1]
        ):  # the last step of an epoch seldom ends just where it does
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
    """The complete epochs among steps."""
    epochs = Epochs()
    return [closed for closed in map(epochs.add, rows) if closed]


def _epoch_of(row: Row) -> int:
    """The number of the epoch that a step belongs to, from 1 on."""
    return max(1, math.ceil(float(row["epoch"]) - 1e-9))


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean; statistics.stdev computes in fractions, which takes longer than a step should wait."""
    mean = statistics.fmean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def _steps(rows: Sequence[Row]) -> str:
    return f"steps {rows[0]['step']:g}-{rows[-1]['step']:g}"
