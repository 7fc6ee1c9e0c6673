"""Tables of ``make bench-pipeline``."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

TARGET_BUSY = 0.95
TOKENS_PER_SECOND = (1_000, 2_500, 5_000, 10_000, 20_000)
TOKENS_PER_COMPLETION = (30, 100, 300)


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a result of ``benchmarks.pipeline.run``.

    groups: groups per step. k: ``loop.max_staleness``. busy: share of the time in which samplers have work. full: tokens sampled,
    as a share of what samplers that are always at their in-flight limit would sample. grade, learn, drive: busy shares of
    graders, learners and drivers. age: mean staleness of trained completions. /s: completions per second. limit: the part with
    the least spare capacity.
    """
    return [
        *(_sizes(title, rows) for title, rows in result["sizes"].items()),
        _needs_per_sampler(result),
        _other_speeds(result),
    ]


def _sizes(title: str, rows: list[Mapping[str, Any]]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, padding=0)
    names = (
        *("samplers", "graders", "groups", "k", "busy", "full", "grade", "learn"),
        *("drive", "age", "/s", "limit"),
    )
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        busy = row["sampler_busy"]
        table.add_row(
            f"{row['samplers']}",
            f"{row['graders']:,}",
            f"{row['groups_per_step']:,}",
            f"{row['allowed_staleness']}",
            f"[{'green' if busy >= TARGET_BUSY else 'red'}]{busy:.1%}",
            f"{row['sampler_output']:.0%}",
            f"{row['grader_busy']:.0%}",
            f"{row['learner_busy']:.0%}",
            f"{row['driver_busy']:.0%}",
            f"{row['mean_staleness']:.2f}",
            f"{row['completions_per_second']:,.0f}",
            row["saturated"],
        )
    return table


def _needs_per_sampler(result: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"Completions and needs of a sampler at its in-flight limit ({result['times']})", show_header=False
    )
    table.add_row("completions per second", f"{result['completions_per_second_of_a_full_sampler']:.1f}")
    table.add_row("tokens per completion", f"{result['tokens_per_completion']:.0f}")
    table.add_row("grader cores", f"{result['graders_per_sampler']:.3f} (required: at most 0.25)")
    table.add_row("learners", f"1 / {result['samplers_per_learner']:.1f}")
    table.add_row("drivers", f"1 / {result['samplers_per_driver']:.1f}")
    return table


def _other_speeds(result: Mapping[str, Any]) -> Table:
    """Return grader cores and share of a driver per sampler, for samplers of other speeds."""
    table = Table(
        title="Grader cores and share of a driver per sampler, by tokens/s and tokens per completion", box=SIMPLE_HEAD
    )
    table.add_column("tokens", justify="right")
    for speed in TOKENS_PER_SECOND:
        table.add_column(f"{speed:,}", justify="right")
    rate = result["completions_per_second_of_a_full_sampler"]
    grading, driving = result["graders_per_sampler"] / rate, 1 / result["samplers_per_driver"] / rate
    for tokens in TOKENS_PER_COMPLETION:
        rates = [speed / tokens for speed in TOKENS_PER_SECOND]
        table.add_row(f"{tokens}", *(f"{one * grading:.2f}, {one * driving:.0%}" for one in rates))
    return table
