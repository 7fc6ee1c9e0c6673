"""All that a report tells of one run, gathered from its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.analysis.report.figures import Drawn
from cluster.analysis.report.ledger import Ledger, read_ledger
from cluster.health.epochs import Compared, compare, latest
from cluster.health.history import History
from cluster.health.judging import Finding, judge, worst
from cluster.health.rules import Health
from cluster.health.run import history_of
from cluster.ledger.run_folder import RunFolder, whole_rows

FACTS = (
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
"""Of the configuration, what stands at the head of a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Settings that changed on the way."""

    step: int
    set: Mapping[str, Any]
    why: str  # empty: by plan


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """One run, as a report shows it."""

    name: str
    facts: Mapping[str, Any]
    history: History
    findings: Sequence[Finding]
    compared: Sequence[Compared]
    changes: Sequence[Change]
    held_out: Sequence[Mapping[str, Any]]
    ledger: Ledger
    is_finished: bool

    @property
    def health(self) -> Health:
        """The verdict over all rules."""
        return worst(self.findings)

    @property
    def drawn(self) -> Drawn:
        """What pictures are drawn from."""
        marks = {one.step: one.why for one in self.changes}
        return Drawn(name=self.name, rows=self.history.steps, marks=marks, held_out=self.held_out)


def gather(run: Path, ledger: Ledger | None = None) -> RunReport:
    """Read a run's folder, finished or not, its ledger too where it is not given; raises RunFolderError."""
    folder = RunFolder(run)
    history = history_of(run)
    pair = latest(history)
    return RunReport(
        name=run.resolve().name,
        facts=folder.settings(*FACTS),
        history=history,
        findings=judge(history),
        compared=compare(pair) if pair else (),
        changes=_changes(folder),
        held_out=list(whole_rows(folder.evaluation)),
        ledger=read_ledger(folder) if ledger is None else ledger,
        is_finished=folder.summary.is_file(),
    )


def _changes(folder: RunFolder) -> list[Change]:
    """What changed after which step; the many steps of a ramp are one change, at its beginning."""
    reasons = {
        row["step"]: f"{row['rule']}: {row.get('evidence', '')}" for row in whole_rows(folder.health) if "set" in row
    }
    found: list[Change] = []
    before = None
    for row in whole_rows(folder.phases):
        step = int(row["step"])
        if before is None or step - before > 1 or step in reasons:
            found.append(Change(step=step, set=row["set"], why=reasons.get(step, "")))
        before = step
    return found
