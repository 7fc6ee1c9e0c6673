"""The terminal output of ``caravan grade``: a progress bar, messages and a summary on stderr, and the exit status."""

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster.types import Verdict
from grader.batch import GradingSummary, grade_file
from grader.reward import profile_of
from grader.settings import GraderSettings

EXIT_COMPLETE = 0
EXIT_INCOMPLETE = 1
EXIT_INTERRUPTED = 130


def grade_with_progress(
    in_path: Path, out_path: Path, *, settings: GraderSettings, num_workers: int | None = None
) -> int:
    """Grade a file as ``grade_file`` does and return the exit status.

    It is 0 if every row was graded, 1 if some were malformed or ungradable, 130 after Ctrl-C. Raises what ``grade_file``
    raises.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("grading"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # Without a terminal the bar would print an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("grading", total=None)
        summary = grade_file(
            in_path,
            out_path,
            settings=settings,
            num_workers=num_workers,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
            on_start=lambda sandbox: console.print(sandbox, markup=False, highlight=False, soft_wrap=True),
            # Row text can look like rich's markup.
            on_error=lambda message: console.print(
                f"{in_path}: {message}", style="yellow", markup=False, soft_wrap=True
            ),
        )
    _print_summary(console, summary, settings, out_path)
    if summary.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_COMPLETE if summary.complete else EXIT_INCOMPLETE


def _print_summary(console: Console, summary: GradingSummary, settings: GraderSettings, out_path: Path) -> None:
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in summary.verdicts.most_common())
    console.print(
        f"{summary.num_graded} graded, mean reward {summary.mean_reward:.3f} ({verdicts or 'none'}) -> {out_path}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if summary.num_too_short:
        console.print(
            f"{summary.num_too_short} of them have fewer than {profile_of(settings).min_code_lines} code lines: "
            "reward 0 (--min-lines)",
            highlight=False,
            soft_wrap=True,
        )
    if summary.verdicts[str(Verdict.INTERFACE)]:
        console.print(
            f"{summary.verdicts[str(Verdict.INTERFACE)]} do not fit their tests; `caravan audit` shows whether any program can",
            highlight=False,
            soft_wrap=True,
        )
    excluded = (len(summary.malformed), "malformed"), (len(summary.ungradable), "could not be graded")
    for count, reason in excluded:
        if count:
            console.print(f"{count} rows {reason} and excluded", style="red", markup=False)
    if summary.interrupted:
        console.print("interrupted: the rows graded so far are kept", style="red", markup=False)
