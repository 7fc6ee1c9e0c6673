"""The report in a few lines of Markdown, for a pull request or a model card; texts of completions are not in it."""

import re
from collections.abc import Iterable, Sequence

from cluster.analysis.report.run import RunReport
from cluster.health.epochs import as_cells
from cluster.health.rules import Health


def summary(runs: Sequence[RunReport], pictures: Sequence[str]) -> str:
    """Health, the latest comparison and held-out results of each run; ``pictures`` are file names beside it."""
    lines: list[str] = []
    for run in runs:
        lines += [f"# {plain(run.name)}: {run.health}", ""]
        lines += [f"{len(run.history.steps)} steps, epoch {run.history.epoch or 0.0:.2f}", ""]
        judged = [one for one in run.findings if one.health is not Health.NO_DATA]
        health = [(str(one.health), one.rule.id, one.judgement.evidence, one.judgement.action) for one in judged]
        lines += _table(("", "rule", "evidence", "recommended"), health)
        if run.compared:
            lines += [f"## {plain(run.compared[0].change.between)}", ""]
            lines += _table(("", "before", "now", "change", "status"), as_cells(run.compared))
        if run.held_out:
            held_out = [
                (
                    str(row["name"]),
                    f"{row['reward']:.3f} ± {row['reward_standard_error']:.3f}",
                    f"{row['pass_rate']:.1%}",
                    str(row.get("num_lost_problems", 0)),
                )
                for row in run.held_out
            ]
            names = ("", "mean reward", "passed all tests", "problems lost")
            lines += ["## Held-out problems", "", *_table(names, held_out)]
        if run.changes:
            changed = [
                (str(one.step), ", ".join(f"{key}={value}" for key, value in one.set.items()), one.why or "by plan")
                for one in run.changes
            ]
            lines += ["## What changed on the way", "", *_table(("after step", "settings", "why"), changed)]
    lines += [f"![{name.removesuffix('.png').replace('_', ' ')}]({name})" for name in pictures]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """A text that Markdown takes as it stands, in one line."""
    return re.sub(r"([\\`*_\[\]<|~$&])", r"\\\1", " ".join(text.split()))


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    head = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return [*head, *(f"| {' | '.join(map(plain, row))} |" for row in rows), ""]
