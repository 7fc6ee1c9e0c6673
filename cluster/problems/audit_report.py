"""``caravan audit`` as a person sees it: a progress bar on stderr, a table by cause, and an exit status."""

from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cluster.config.dataset_part import Part
from cluster.console import output
from cluster.problems.audit import AuditSummary, audit_dataset
from grader.settings import GraderSettings

INTERRUPTED = 130
INCOMPLETE = 1


def audit_and_report(dataset: str, out: Path | None, *, part: Part, num_workers: int | None) -> int:
    """Audit a data set, print what was found and return the exit status.

    0 where every row was judged, whatever the judgement; 1 where the machine failed at some; 130 after Ctrl-C. Raises what
    ``audit_dataset`` raises.
    """
    columns = (
        TextColumn("auditing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output(stderr=True), transient=True) as progress:
        task = progress.add_task("auditing", total=None)
        summary = audit_dataset(
            dataset,
            out,
            settings=GraderSettings(),
            part=part,
            num_workers=num_workers,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    console = output()
    if summary.causes or summary.warnings:
        console.print(_table(summary, dataset))
    for line in _lines(summary, out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if summary.interrupted:
        return INTERRUPTED
    return INCOMPLETE if summary.num_ungradable else 0


def _table(summary: AuditSummary, dataset: str) -> Table:
    table = Table(title=Text(f"audit of {dataset}"), title_justify="left")
    table.add_column("what")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    table.add_column("for example", overflow="fold")
    for title, counter in (("causes: no solution can pass", summary.causes), ("warnings", summary.warnings)):
        if counter:
            table.add_section()
            table.add_row(Text(title, style="bold"), "", "", "")
        for code, count in counter.most_common():
            share = f"{count / summary.num_audited:.1%}"
            table.add_row(Text(f"  {code}"), str(count), share, Text(summary.examples[code]))
    return table


def _lines(summary: AuditSummary, out: Path | None) -> list[str]:
    passable = summary.num_audited - summary.num_unpassable - summary.num_ungradable
    where = f" -> {out}" if out else ""
    lines = [f"{summary.num_audited} rows: {passable} passable, {summary.num_unpassable} unpassable{where}"]
    if summary.num_ungradable:
        lines.append(f"{summary.num_ungradable} rows could not be judged: the machine failed; run it again")
    if summary.interrupted:
        missing = summary.num_rows - summary.num_audited
        lines.append(f"interrupted: {missing} rows are missing, the others are kept")
    return lines
