"""The contents of a report about one run, read from its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.analysis.report.ledger_summary import LedgerSummary, read_summary
from cluster.analysis.report.plots import PlotData
from cluster.health.checks import CheckResult, check_run, worst
from cluster.health.comparison import Compared, as_cells, compare, latest
from cluster.health.history import History
from cluster.health.rules import Health
from cluster.health.run_history import history_of
from cluster.ledger.evaluation_result import EvaluationResult
from cluster.ledger.jsonl import whole_rows
from cluster.ledger.run_folder import RunFolder

SETTINGS = (
    "model.path",
    "data.dataset",
    "rollout.temperature",
    "rollout.group_size",
    "loop.groups_per_step",
    "loop.max_staleness",
    "learner.learning_rate",
    "learner.kl_coefficient",
    "learner.lora.r",
    "grader.reward",
)
"""Settings at the head of a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Settings that changed during the run."""

    step: int
    settings: Mapping[str, Any]
    reason: str  # empty: scheduled


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """One run as a report shows it."""

    name: str
    settings: Mapping[str, Any]
    history: History
    checks: Sequence[CheckResult]
    compared: Sequence[Compared]
    changes: Sequence[Change]
    held_out: Sequence[EvaluationResult]
    ledger: LedgerSummary
    is_finished: bool

    @property
    def health(self) -> Health:
        """Overall health: the worst of all rules."""
        return worst(self.checks)

    @property
    def alerts(self) -> list[CheckResult]:
        """Checks that raised an alert, worst first."""
        alerts = (check for check in self.checks if check.is_alert)
        return sorted(alerts, key=lambda check: check.health is not Health.STOP)

    @property
    def healthy(self) -> list[CheckResult]:
        """Checks that passed."""
        return [check for check in self.checks if check.health is Health.OK]

    @property
    def unmeasured(self) -> list[str]:
        """Ids of the rules without enough data."""
        return [check.rule.id for check in self.checks if check.health is Health.NO_DATA]

    @property
    def comparison_rows(self) -> list[tuple[tuple[str, str, str, str, str], bool | None]]:
        """Cells of the comparison table by metric, each with True for better, False for worse, None for neither."""
        return [
            (cells, comparison.is_good)
            for cells, comparison in zip(as_cells(self.compared), self.compared, strict=True)
        ]

    @property
    def plot_data(self) -> PlotData:
        """The part of the run that plots are drawn from."""
        changes = [change.step for change in self.changes]
        return PlotData(name=self.name, rows=self.history.steps, changed_after=changes, held_out=self.held_out)


def read_report(run: Path, ledger: LedgerSummary | None = None) -> RunReport:
    """Read the report of a run, finished or not; reads the ledger unless its summary is given. Raises RunFolderError."""
    folder = RunFolder(run)
    history = history_of(run)
    pair = latest(history)
    return RunReport(
        name=run.resolve().name,
        settings=folder.settings(*SETTINGS),
        history=history,
        checks=check_run(history),
        compared=compare(pair) if pair else (),
        changes=_changes(folder),
        held_out=[EvaluationResult.from_row(row) for row in whole_rows(folder.evaluation)],
        ledger=read_summary(folder) if ledger is None else ledger,
        is_finished=folder.summary.is_file(),
    )


def _changes(folder: RunFolder) -> list[Change]:
    """Read the changes of settings; a ramp over consecutive steps counts as one change at its first step."""
    reasons = {
        row["step"]: f"{row['rule']}: {row.get('evidence', '')}" for row in whole_rows(folder.health) if "set" in row
    }
    changes: list[Change] = []
    last_step = None
    for row in whole_rows(folder.phases):
        step = int(row["step"])
        if last_step is None or step - last_step > 1 or step in reasons:
            changes.append(Change(step=step, settings=row["set"], reason=reasons.get(step, "")))
        last_step = step
    return changes
