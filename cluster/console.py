"""Terminal output of commands: progress bars on a terminal, else a line per step; tables of evaluations."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from cluster.errors import ConfigError
from cluster.ledger.evaluation_result import EvaluationResult
from cluster.types import Verdict

SMOOTHING = 0.2  # weight of the newest step in the moving average of the reward
LOG_COLUMNS = 160  # width of tables in files and pipes


def output(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal; LOG_COLUMNS wide for files and pipes, for which rich assumes 80 columns."""
    console = Console(stderr=stderr)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(stderr=stderr, width=LOG_COLUMNS)


class View:
    """Log lines, warnings and progress of a command, on stderr: stdout is for results."""

    def __init__(self) -> None:
        self.console = output(stderr=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
        )
        self._task: TaskID | None = None
        self._reward: float | None = None
        self._num_steps = 0

    def log(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print one line as a warning."""
        self.console.print(
            Text("warning: ", style="yellow"), text, sep="", highlight=False, markup=False, soft_wrap=True
        )

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Show that a long operation is running, and afterwards log how long it took."""
        started = time.monotonic()
        if self.console.is_terminal:
            with self.console.status(name):
                yield
        else:
            self.log(f"{name} ...")
            yield
        self.log(f"{name}: {time.monotonic() - started:.1f} s")

    @contextmanager
    def counting(self, name: str, total: int) -> Iterator["Counter"]:
        """Show a progress bar for ``total`` equal pieces of work."""
        started = time.monotonic()
        with nullcontext() if self._bar.live.is_started else self._bar:  # the training may show a bar already
            task = self._bar.add_task(name, total=total, metrics="")
            try:
                yield Counter(self._bar, task)
            finally:
                done = next(bar.completed for bar in self._bar.tasks if bar.id == task)
                self._bar.remove_task(task)
        self.log(f"{name}: {total if done >= total else f'{done:g} of {total}'} in {time.monotonic() - started:.1f} s")

    @contextmanager
    def training(self, num_steps: int, done: int) -> Iterator[None]:
        """Show the progress bar of the training steps."""
        self._num_steps = num_steps
        with self._bar:
            self._task = self._bar.add_task("training", total=num_steps, completed=done, metrics="")
            try:
                yield
            finally:
                self._bar.remove_task(self._task)
                self._task = None

    def step_done(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Show the metrics of a finished step."""
        reward = metrics["reward"]
        self._reward = reward if self._reward is None else (1 - SMOOTHING) * self._reward + SMOOTHING * reward
        line = (
            f"reward {reward:.3f} (average {self._reward:.3f})  passed {metrics['pass_rate']:.0%}  "
            f"no signal {metrics['frac_zero_std']:.0%}  "
            f"{metrics['tokens_per_second']:,.0f} tok/s  {metrics['num_completions'] / metrics['step_seconds']:.1f} compl/s"
        )
        if self._task is not None:
            self._bar.update(self._task, completed=step, metrics=line)
        if not self.console.is_terminal:
            self.log(
                f"step {step}/{self._num_steps}  epoch {epoch:.2f}  {line}  {metrics['step_seconds']:.1f} s/step  "
                f"{busy_line(metrics)}"
            )


class Counter:
    """Advances one progress bar."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def advance(self) -> None:
        """Count one finished piece of work."""
        self._bar.advance(self._task)


def evaluation_table(results: Sequence[EvaluationResult], title: str) -> Table:
    """A table with a column per evaluation, and the change from the first to the last if both measured the same problems."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(result.name, justify="right")
    compared = len(results) > 1
    first, last = ({problem.id for problem in result.by_problem} for result in (results[0], results[-1]))
    has_change = compared and first == last
    if has_change:
        table.add_column("change", justify="right")
    elif compared:
        table.caption = "different problems: `caravan compare` shows the change over the common ones"

    def row(name: str, values: Sequence[str], change: str = "") -> None:
        table.add_row(name, *values, *([change] if has_change else []))

    rewards = [result.reward for result in results]
    passes = [result.pass_rate for result in results]
    row(
        "mean reward",
        [result.reward_text for result in results],
        f"{rewards[-1] - rewards[0]:+.3f}",
    )
    row("passed all tests", [f"{value:.1%}" for value in passes], f"{100 * (passes[-1] - passes[0]):+.1f} points")
    row("problems solved at least once", [f"{result.solved_once:.1%}" for result in results])
    for k in results[0].pass_at:
        if all(k in result.pass_at for result in results):
            estimates = [result.pass_at[k] for result in results]
            # Intervals of single evaluations say little about a change: `caravan compare` has the interval of the change.
            interval = "" if compared else f" ({estimates[0]['low']:.1%} to {estimates[0]['high']:.1%})"
            row(f"pass@{k}", [f"{estimate['value']:.1%}{interval}" for estimate in estimates])
    for verdict in Verdict:
        shares = [result.share_of(verdict) for result in results]
        if verdict is not Verdict.PASSED and any(shares):
            row(f"  {verdict.replace('_', ' ')}", [f"{share:.1%}" for share in shares])
    row("problems", [str(result.num_problems) for result in results])
    row("completions", [str(result.num_completions) for result in results])
    for name, key in (
        ("problems without any grade", "num_lost_problems"),
        ("completions without a grade", "num_ungradable"),
    ):
        numbers = [getattr(result, key) for result in results]
        if any(numbers):
            row(name, [str(number) for number in numbers])
    return table


def difficulty_table(by_difficulty: Mapping[str, Mapping[str, float]]) -> Table:
    """A table of one evaluation by the difficulty of its problems."""
    table = Table(title="by difficulty", title_justify="left")
    table.add_column("")
    for column in ("problems", "mean reward", "passed"):
        table.add_column(column, justify="right")
    for name, row in by_difficulty.items():
        table.add_row(name, f"{row['num_problems']:.0f}", f"{row['reward']:.3f}", f"{row['pass_rate']:.1%}")
    return table


def count(number: int, thing: str) -> str:
    """A number with its noun: ``1 grader``, ``2 graders``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def busy_line(metrics: Mapping[str, float]) -> str:
    """The busy shares of a step, and the waits longer than a twentieth of the step, longest first."""
    shares = ", ".join(
        f"{part} {metrics.get(f'{part}_busy_share', 0.0):.0%}" for part in ("samplers", "graders", "learner")
    )
    threshold = 0.05 * metrics.get("step_seconds", 0.0)
    waits = sorted(
        ((seconds, name) for name, seconds in metrics.items() if "_waited_for_" in name and seconds > threshold),
        reverse=True,
    )
    parts = [f"{name.removesuffix('_seconds').replace('_', ' ')} {seconds:.1f} s" for seconds, name in waits]
    return f"busy: {shares}" + (f"; {', '.join(parts)}" if parts else "")


def check_empty(out: Path) -> None:
    """Raise ConfigError unless ``out`` is an empty folder or does not exist."""
    try:
        is_taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise ConfigError(f"{str(out)[:80]} cannot be read: {error.strerror}") from error
    if is_taken:
        raise ConfigError(f"{out} is not an empty folder: choose another one")
