"""``caravan compare``: two evaluations of the same problems, problem by problem."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from cluster.console import evaluation_table, output
from cluster.errors import RunFolderError
from cluster.ledger.run_folder import RunFolder
from cluster.loop.estimates import interval, pass_at_k, sign_flip_p
from cluster.loop.evaluation import warning_of_lost

Result = Mapping[str, Any]  # what evaluation.summarize returns
NUM_SHOWN = 5  # problems that gained most, and that lost most


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The second evaluation less the first, over the problems that both have."""

    of: str
    mean: float
    low: float  # of the 95% interval
    high: float
    p: float  # of the sign-flip test


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two evaluations, paired by problem."""

    differences: Sequence[Difference]
    by_problem: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]]  # in the order of the first
    num_unpaired: int  # problems that only one of them has


def read_result(text: str) -> dict[str, Any]:
    """An evaluation: a file of ``caravan eval --out``, RUN (its last one), or RUN:NAME ("before", "after", "step 40").

    Raises RunFolderError.
    """
    path = Path(text)
    if path.is_file():
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            result = None
        return _checked(result, text)
    run, _, name = (text, "", "") if path.is_dir() else text.rpartition(":")
    rows = RunFolder(Path(run)).evaluations() if run and Path(run).is_dir() else []
    if not rows:
        raise RunFolderError(f"{text}: neither a file of `caravan eval --out` nor a run that was evaluated")
    found = [row for row in rows if not name or row["name"] == name]
    if not found:
        raise RunFolderError(f"{text}: the evaluations of {run} are {', '.join(row['name'] for row in rows)}")
    return _checked(found[-1], text)


def compare(first: Result, second: Result) -> Comparison:
    """Pair the problems of two evaluations; raises RunFolderError where they have none in common."""
    one, other = ({row["id"]: row for row in result["by_problem"]} for result in (first, second))
    both = {name: (row, other[name]) for name, row in one.items() if name in other}
    if not both:
        raise RunFolderError(f"{first['name']} and {second['name']} have no problem in common: nothing can be compared")

    def difference(of: str, value: Any) -> Difference:
        values = [value(after) - value(before) for before, after in both.values()]
        low, high = interval(values)
        return Difference(of=of, mean=sum(values) / len(values), low=low, high=high, p=sign_flip_p(values))

    # More completions solve more problems: where the numbers differ, both sides are taken at the smallest one.
    numbers = {row["num_completions"] for pair in both.values() for row in pair}
    k = min(numbers)
    differences = [
        difference("mean reward", lambda row: row["reward"]),
        difference("pass@1", lambda row: row["num_passed"] / row["num_completions"]),
    ]
    if k > 1 or len(numbers) == 1:
        solved = "solved at least once" if len(numbers) == 1 else f"pass@{k}"
        differences.append(
            difference(solved, lambda row: pass_at_k(row["num_completions"], row["num_passed"], k)),
        )
    return Comparison(
        differences=differences,
        by_problem=both,
        num_unpaired=len(one) + len(other) - 2 * len(both),
    )


def compare_and_report(first: str, second: str) -> int:
    """Print the two evaluations side by side and what differs; returns the exit code."""
    results = [read_result(first), read_result(second)]
    comparison = compare(*results)
    console = output()
    console.print(evaluation_table(results, "held-out problems"))
    for result in results:
        if warning := warning_of_lost(result):
            console.print(
                f"[yellow]{escape(warning)}, and what follows is of the problems that both have[/]", soft_wrap=True
            )
    if line := _unequal_numbers(comparison):
        console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
    console.print(_differences_table(comparison))
    if moved := _moved(comparison):
        console.print(_problems_table(moved))
    if comparison.num_unpaired:
        console.print(f"{comparison.num_unpaired} problems that only one of them has are left out of the test.")
    return 0


def _checked(result: Any, text: str) -> dict[str, Any]:
    rows = result.get("by_problem") if isinstance(result, dict) else None
    needed = {"id", "reward", "num_passed", "num_completions"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed <= row.keys() for row in rows):
        raise RunFolderError(f"{text} holds no figures by problem: is it a result of `caravan eval --out`?")
    return dict(result)


def _differences_table(comparison: Comparison) -> Table:
    number = len(comparison.by_problem)
    table = Table(title=f"second less first, over {number} problems", title_justify="left")
    for column in ("", "difference", "95% interval", "p"):
        table.add_column(column, justify="left" if not column else "right")
    for one in comparison.differences:
        table.add_row(one.of, f"{one.mean:+.3f}", f"{one.low:+.3f} to {one.high:+.3f}", f"{one.p:.4f}")
    table.caption = "intervals by bootstrap over problems; p: sign-flip test, two-sided"
    return table


def _unequal_numbers(comparison: Comparison) -> str:
    """Return a line where problems have different numbers of completions, else an empty text."""
    numbers = [sorted({pair[side]["num_completions"] for pair in comparison.by_problem.values()}) for side in (0, 1)]
    if numbers[0] == numbers[1] and len(numbers[0]) == 1:
        return ""
    first, second = (" to ".join(map(str, sorted({some[0], some[-1]}))) for some in numbers)
    return (
        f"the first has {first} completions per problem, the second {second}: 'problems solved at least once' above grows with "
        "that number, so the test takes pass@k at the smallest one"
    )


def _moved(comparison: Comparison) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The problems that lost most, and those that gained most; at most NUM_SHOWN of either."""
    ordered = sorted(comparison.by_problem.values(), key=lambda pair: pair[1]["reward"] - pair[0]["reward"])
    moved = [pair for pair in ordered if pair[0]["reward"] != pair[1]["reward"]]
    return moved if len(moved) <= 2 * NUM_SHOWN else [*moved[:NUM_SHOWN], *moved[-NUM_SHOWN:]]


def _problems_table(moved: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Table:
    table = Table(title="problems that lost and gained most", title_justify="left")
    for column in ("problem", "reward", "passed"):
        table.add_column(column, justify="left" if column == "problem" else "right")
    for before, after in moved:
        table.add_row(
            before["id"],
            f"{before['reward']:.3f} -> {after['reward']:.3f}",
            f"{before['num_passed']}/{before['num_completions']} -> {after['num_passed']}/{after['num_completions']}",
        )
    return table
