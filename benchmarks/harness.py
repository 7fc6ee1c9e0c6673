"""Shared parts of the benchmarks: options, order of contestants, ratios, percentiles, and the output.

Every benchmark prints its progress on stderr, its tables on stdout and, as the last line, the result as JSON.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

T = TypeVar("T")
Log = Callable[[str], None]  # shows the current stage


def option_parser(target: str, description: str | None) -> argparse.ArgumentParser:
    """Return the option parser of a make target, described by the first line of ``description``."""
    return argparse.ArgumentParser(prog=f"make {target}", description=(description or "").partition("\n")[0])


def measure_and_print(measure: Callable[[Log], Mapping[str, Any]], tables: Callable[[Any], Iterable[Table]]) -> None:
    """Measure with a progress line, then print the tables and the result."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=None)
        result = measure(lambda stage: progress.update(task, description=stage))
    for table in tables(result):
        Console().print(table)
    print_result(result)


def print_result(result: Mapping[str, Any]) -> None:
    """Print the result as one line of JSON."""
    print(json.dumps(result))


def rotated(contestants: Sequence[T], round_number: int) -> list[T]:
    """Return the contestants in the order of a round. Each round starts with the next one, so that noise affects all equally."""
    first = round_number % len(contestants)
    return [*contestants[first:], *contestants[:first]]


def ratios_by_round(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of two contestants within each round, in ascending order."""
    return sorted(one / other for one, other in zip(numerators, denominators, strict=True))


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value below which a ``share`` (0 to 1) of the values lies."""
    ascending = sorted(values)
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]
