"""``caravan compare``: compare two evaluations problem by problem."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from cluster.console import evaluation_table, output
from cluster.errors import RunFolderError
from cluster.ledger.evaluation_result import EvaluationResult, ProblemResult
from cluster.ledger.run_folder import RunFolder
from cluster.loop.estimates import interval, pass_at_k, sign_flip_p
from cluster.loop.evaluation import lost_problems_warning

ProblemPair = tuple[ProblemResult, ProblemResult]  # results of one problem in both evaluations
NUM_SHOWN = 5  # problems with the largest gains, and with the largest losses


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Second evaluation minus the first in one metric, over the problems that both have."""

    metric: str
    mean: float
    low: float  # lower bound of the 95% interval
    high: float
    p: float  # p-value of the sign-flip test


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two evaluations paired by problem."""

    differences: Sequence[Difference]
    by_problem: Mapping[str, ProblemPair]  # by id, in the order of the first evaluation
    num_unpaired: int  # problems in only one of the evaluations


def read_result(text: str) -> EvaluationResult:
    """Read an evaluation: a file of ``caravan eval --out``, RUN (its last one), or RUN:NAME ("before", "after", "step 40").

    Raises RunFolderError.
    """
    path = Path(text)
    if path.is_file():
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            result = None
        return _check_result(result, text)
    run, _, name = (text, "", "") if path.is_dir() else text.rpartition(":")
    folder = RunFolder(Path(run))
    rows = folder.rows(folder.evaluation, missing_ok=True) if run and folder.path.is_dir() else []
    if not rows:
        raise RunFolderError(f"{text} is neither a file of `caravan eval --out` nor a run with an evaluation")
    found = [row for row in rows if not name or row["name"] == name]
    if not found:
        raise RunFolderError(f"{run} has no evaluation {name!r}: it has {', '.join(row['name'] for row in rows)}")
    return _check_result(found[-1], text)


def named_results(first: str, second: str) -> list[EvaluationResult]:
    """Read two evaluations; name each after its run or file if their names are equal."""
    results = [read_result(first), read_result(second)]
    if results[0].name != results[1].name:
        return results
    return [
        replace(result, name=text if Path(text).is_file() or ":" in Path(text).name else f"{text}: {result.name}")
        for result, text in zip(results, (first, second), strict=True)
    ]


def compare(first: EvaluationResult, second: EvaluationResult) -> Comparison:
    """Pair the problems of two evaluations and compare them; raises RunFolderError if they share no problem."""
    old, new = ({problem.id: problem for problem in result.by_problem} for result in (first, second))
    both = {problem_id: (row, new[problem_id]) for problem_id, row in old.items() if problem_id in new}
    if not both:
        raise RunFolderError(f"{first.name} and {second.name} have no problem in common: there is nothing to compare")

    def difference(metric: str, value: Any) -> Difference:
        values = [value(after) - value(before) for before, after in both.values()]
        low, high = interval(values)
        return Difference(metric=metric, mean=sum(values) / len(values), low=low, high=high, p=sign_flip_p(values))

    # "Solved at least once" grows with the completions per problem: unequal numbers need pass@k, with the smallest number as k.
    counts = {row.num_completions for pair in both.values() for row in pair}
    k = min(counts)
    differences = [
        difference("mean reward", lambda row: row.reward),
        difference("pass@1", lambda row: row.num_passed / row.num_completions),
    ]
    if k > 1 or len(counts) == 1:
        solved = "solved at least once" if len(counts) == 1 else f"pass@{k}"
        differences.append(
            difference(solved, lambda row: pass_at_k(row.num_completions, row.num_passed, k)),
        )
    return Comparison(
        differences=differences,
        by_problem=both,
        num_unpaired=len(old) + len(new) - 2 * len(both),
    )


def compare_and_report(first: str, second: str) -> int:
    """Print two evaluations and their differences, and return the exit code."""
    results = named_results(first, second)
    comparison = compare(*results)
    console = output()
    console.print(evaluation_table(results, "held-out problems"))
    for result in results:
        if warning := lost_problems_warning(result):
            console.print(
                f"[yellow]{escape(warning)}; the comparison uses the problems that both evaluations have[/]",
                soft_wrap=True,
            )
    if line := _unequal_counts_note(comparison):
        console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
    console.print(_differences_table(comparison))
    if changed := _largest_changes(comparison):
        console.print(_problems_table(changed))
    if comparison.num_unpaired:
        console.print(
            f"{comparison.num_unpaired} problems in only one of the evaluations are excluded from the comparison."
        )
    return 0


def _check_result(result: Any, text: str) -> EvaluationResult:
    rows = result.get("by_problem") if isinstance(result, dict) else None
    needed = {"id", "reward", "num_passed", "num_completions"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and needed <= row.keys() for row in rows):
        raise RunFolderError(f"{text} has no results by problem: it is not a result of `caravan eval --out`")
    try:
        return EvaluationResult.from_row(result)
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{text} is not a result of `caravan eval --out` ({error!r})") from None


def _differences_table(comparison: Comparison) -> Table:
    table = Table(title=f"second minus first, over {len(comparison.by_problem)} problems", title_justify="left")
    for column in ("", "difference", "95% interval", "p"):
        table.add_column(column, justify="left" if not column else "right")
    for difference in comparison.differences:
        table.add_row(
            difference.metric,
            f"{difference.mean:+.3f}",
            f"{difference.low:+.3f} to {difference.high:+.3f}",
            f"{difference.p:.4f}",
        )
    table.caption = "bootstrap intervals over problems; p: two-sided sign-flip test"
    return table


def _unequal_counts_note(comparison: Comparison) -> str:
    """Explain the use of pass@k; empty if all problems have the same number of completions."""
    counts = [sorted({pair[side].num_completions for pair in comparison.by_problem.values()}) for side in (0, 1)]
    if counts[0] == counts[1] and len(counts[0]) == 1:
        return ""
    first, second = (" to ".join(map(str, sorted({some[0], some[-1]}))) for some in counts)
    return (
        f"the first has {first} completions per problem, the second {second}: 'problems solved at least once' grows with that "
        "number, so the comparison uses pass@k at the smallest number"
    )


def _largest_changes(comparison: Comparison) -> list[ProblemPair]:
    """The problems with the largest losses and the largest gains in reward, at most NUM_SHOWN of each."""
    ordered = sorted(comparison.by_problem.values(), key=lambda pair: pair[1].reward - pair[0].reward)
    changed = [pair for pair in ordered if pair[0].reward != pair[1].reward]
    return changed if len(changed) <= 2 * NUM_SHOWN else [*changed[:NUM_SHOWN], *changed[-NUM_SHOWN:]]


def _problems_table(pairs: Sequence[ProblemPair]) -> Table:
    table = Table(title="largest changes by problem", title_justify="left")
    for column in ("problem", "reward", "passed"):
        table.add_column(column, justify="left" if column == "problem" else "right")
    for before, after in pairs:
        table.add_row(
            before.id,
            f"{before.reward:.3f} -> {after.reward:.3f}",
            f"{before.num_passed}/{before.num_completions} -> {after.num_passed}/{after.num_completions}",
        )
    return table
