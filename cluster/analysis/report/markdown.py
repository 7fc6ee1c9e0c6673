"""The report as a few lines of Markdown, for a pull request or a model card. It contains no text of a completion."""

import re
from collections.abc import Iterable, Sequence

from cluster.analysis.report.run import RunReport
from cluster.health.comparison import as_cells
from cluster.health.rules import Health


def summary(reports: Sequence[RunReport], plots: Sequence[str]) -> str:
    """Summarize health, the latest comparison and held-out results of each run, and embed ``plots`` (file names)."""
    lines: list[str] = []
    for report in reports:
        lines += [f"# {escape(report.name)}: {report.health}", ""]
        lines += [f"{len(report.history.steps)} steps, epoch {report.history.epoch or 0.0:.2f}", ""]
        measured = [check for check in report.checks if check.health is not Health.NO_DATA]
        health = [
            (str(check.health), check.rule.id, check.assessment.evidence, check.assessment.action) for check in measured
        ]
        lines += _table(("", "rule", "evidence", "recommended"), health)
        if report.compared:
            lines += [f"## {escape(report.compared[0].change.between)}", ""]
            lines += _table(("", "before", "now", "change", "status"), as_cells(report.compared))
        if report.held_out:
            held_out = [
                (
                    result.name,
                    result.reward_text,
                    f"{result.pass_rate:.1%}",
                    str(result.num_lost_problems),
                )
                for result in report.held_out
            ]
            heads = ("", "mean reward", "passed all tests", "problems lost")
            lines += ["## Held-out problems", "", *_table(heads, held_out)]
        if report.changes:
            changes = [
                (
                    str(change.step),
                    ", ".join(f"{key}={value}" for key, value in change.settings.items()),
                    change.reason or "scheduled",
                )
                for change in report.changes
            ]
            lines += ["## Changed settings", "", *_table(("after step", "settings", "reason"), changes)]
    lines += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in plots]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Escape a text for Markdown and put it on one line."""
    return re.sub(r"([\\`*_\[\]<|~$&])", r"\\\1", " ".join(text.split()))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    head = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return [*head, *(f"| {' | '.join(map(escape, row))} |" for row in rows), ""]
