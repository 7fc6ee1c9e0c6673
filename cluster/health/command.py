"""``caravan health``: the results of all checks as text or JSON, and an exit code."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from cluster.console import output
from cluster.health.checks import CheckResult, check_run, worst
from cluster.health.comparison import Compared, as_cells
from cluster.health.history import History
from cluster.health.rules import Health
from cluster.health.run_history import history_of

EXIT_CODES = {Health.OK: 0, Health.WARN: 3, Health.STOP: 4, Health.NO_DATA: 5}
"""Exit code by health. Every command may also exit with 1, 2 and 130."""

STYLES = {Health.OK: "green", Health.WARN: "yellow", Health.STOP: "bold red", Health.NO_DATA: "dim"}


def print_health(run: Path, *, as_json: bool) -> int:
    """Check a run, print the results with alerts at the end, and return the exit code. Raises RunFolderError."""
    history = history_of(run)
    results = check_run(history)
    if as_json:
        print(json.dumps(json_document(run, history, results), ensure_ascii=False))
    else:
        _print(run, history, results)
    return EXIT_CODES[worst(results)]


def json_document(run: Path, history: History, results: Sequence[CheckResult]) -> dict[str, object]:
    """Return the object that ``--json`` prints."""
    return {
        "run": str(run),
        "step": int(history.steps[-1]["step"]) if history.steps else 0,
        "epoch": history.epoch,
        "health": str(worst(results)),
        "findings": [result.as_row() for result in results],
    }


def _print(run: Path, history: History, results: Sequence[CheckResult]) -> None:
    console = output()
    where = f"step {history.steps[-1]['step']:g}, epoch {history.epoch or 0.0:.2f}" if history.steps else "no step yet"
    verdict = worst(results)
    console.print(Text.assemble(f"{run} ({where}): ", (str(verdict), STYLES[verdict])), soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_header=False)
    for result in results:
        if result.health is not Health.NO_DATA:
            table.add_row(
                Text(str(result.health), style=STYLES[result.health]),
                result.rule.id,
                Text(result.assessment.evidence),
            )
    console.print(table)
    for result in sorted(results, key=lambda check: check.health is not Health.STOP):
        if result.is_alert:
            console.print()
            console.print(Text.assemble((result.rule.id, STYLES[result.health]), f": {result.assessment.action}"))
            console.print(
                Text(f"    {result.rule.measures}: {result.rule.threshold} ({result.rule.source})", style="dim")
            )
    without_data = [result.rule.id for result in results if result.health is Health.NO_DATA]
    if without_data:
        console.print()
        console.print(Text(f"not enough data: {', '.join(without_data)}", style="dim"), soft_wrap=True)


def comparison_table(compared: Sequence[Compared]) -> Table:
    """Return the table that compares two windows, with a status for each metric."""
    table = Table(title=compared[0].change.between if compared else None, title_justify="left")
    for name in ("", "before", "now", "change", "status"):
        table.add_column(name, justify="right" if name in ("before", "now", "change") else "left")
    for metric, (*cells, status) in zip(compared, as_cells(compared), strict=True):
        style = "" if metric.is_good is None else "green" if metric.is_good else "red"
        table.add_row(*cells, Text(status, style=style))
    return table
