"""Output of ``caravan audit``: progress bar on stderr, table by cause, exit status."""

from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from cluster.config.dataset_part import Part
from cluster.console import output
from cluster.problems.audit import MALFORMED, NUM_SHOWN, AuditSummary, audit_dataset
from grader.settings import GraderSettings

INTERRUPTED = 130
INCOMPLETE = 1


def audit_and_report(dataset: str, out: Path | None, *, part: Part, num_workers: int | None) -> int:
    """Audit a data set, print the results and return the exit status.

    The status is 0 if every row was audited, with any result; 1 if the machine failed on some; 130 after Ctrl-C. Raises
    DatasetError as ``audit_dataset`` does.
    """
    columns = (
        TextColumn("auditing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("remaining"),
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
    table.add_column("cause or warning")
    table.add_column("rows", justify="right")
    table.add_column("share", justify="right")
    table.add_column("example", overflow="fold")
    for title, counter in (("causes: no solution can pass", summary.causes), ("warnings", summary.warnings)):
        if counter:
            table.add_section()
            table.add_row(Text(title, style="bold"), "", "", "")
        for code, count in counter.most_common():
            share = f"{count / summary.num_audited:.1%}"
            table.add_row(Text(f"  {code}"), str(count), share, Text(summary.examples[code]))
    return table


def _lines(summary: AuditSummary, out: Path | None) -> list[str]:
    num_solvable = summary.num_audited - summary.num_unsolvable - summary.num_ungradable
    written = f" -> {out}" if out else ""
    lines = [f"{summary.num_audited} rows: {num_solvable} solvable, {summary.num_unsolvable} unsolvable{written}"]
    if num_malformed := summary.causes[MALFORMED]:
        more = f"; and {num_malformed - len(summary.malformed_rows)} more" if num_malformed > NUM_SHOWN else ""
        lines.append(f"{num_malformed} malformed: {'; '.join(summary.malformed_rows)}{more}")
    if summary.num_ungradable:
        lines.append(f"{summary.num_ungradable} rows could not be audited: the machine failed; run the audit again")
    if summary.interrupted:
        missing = summary.num_rows - summary.num_audited
        lines.append(f"interrupted: {missing} rows were not audited; the others are written")
    return lines
