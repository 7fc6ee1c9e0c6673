"""``caravan filter``: selection of the rows of a data set by pass rate, audit and prompt length."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.config.dataset_part import WHOLE, Part
from cluster.errors import ConfigError, DatasetError
from cluster.ledger.row_files import SUFFIXES, write_rows
from cluster.problems.dataset import SeenIds, dataset_rows, load_problems, read_row
from cluster.problems.dataset_files import Row, ending_of, read_file
from cluster.types import Problem
from grader.fields import identifier

NUM_SHOWN = 3  # bad rows that are printed


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """Conditions that a kept problem meets. None: no condition."""

    pass_rates: Mapping[str, float] | None = None  # measured, by problem id; 0 to 1
    min_pass: float = 0.0
    max_pass: float = 1.0
    solvable: Mapping[str, bool] | None = None  # result of the audit, by problem id
    max_prompt_chars: int | None = None

    def rejection(self, problem: Problem) -> str | None:
        """Return the reason to exclude a problem; None to keep it."""
        if self.max_prompt_chars is not None and len(problem.prompt) > self.max_prompt_chars:
            return "prompt too long"
        if self.solvable is not None:
            if problem.id not in self.solvable:
                return "not audited"
            if not self.solvable[problem.id]:
                return "no solution can pass it"
        if self.pass_rates is not None:
            if problem.id not in self.pass_rates:
                return "not measured"
            if self.pass_rates[problem.id] < self.min_pass:
                return "too hard"
            if self.pass_rates[problem.id] > self.max_pass:
                return "too easy"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Kept rows of a data set, and counts of the others."""

    rows: Sequence[Mapping[str, Any]]  # unchanged
    excluded: Mapping[str, int]  # reason -> number of rows
    bad_rows: Sequence[str]  # one line each: row number and reason


def select_rows(dataset: str, criteria: Criteria, part: Part = WHOLE) -> Selection:
    """Select the rows of a data set that meet the criteria. Raises DatasetError if it cannot be read."""
    rows: list[Mapping[str, Any]] = []
    excluded: Counter[str] = Counter()
    seen = SeenIds()
    bad_rows: list[str] = []
    for number, row in enumerate(_rows(dataset, part), start=1):
        try:
            if isinstance(row, str):
                raise ValueError(row)
            problem = read_row(row)
            if repeated := seen.add(problem, number):
                raise ValueError(repeated)
        except ValueError as error:
            bad_rows.append(f"row {number}: {error}")
            excluded["bad row"] += 1
            continue
        if reason := criteria.rejection(problem):
            excluded[reason] += 1
        else:
            rows.append(row)
    return Selection(rows=rows, excluded=excluded, bad_rows=bad_rows)


def read_pass_rates(path: Path) -> dict[str, float]:
    """Read pass rates by problem id from a file of ``caravan eval --out``. Raises DatasetError."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["by_problem"]
        return {identifier(row["id"]): row["num_passed"] / row["num_completions"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is not a result of `caravan eval --out`: {_reason(error)}") from None


def read_solvable(path: Path) -> dict[str, bool]:
    """Read the audit result of each problem, by id, from a file of ``caravan audit --out``. Raises DatasetError."""
    try:
        if ending_of(path) not in SUFFIXES:
            raise ValueError("its name ends neither in .jsonl nor in .parquet")
        # "passable" is null if the machine failed to audit a problem: it counts as not solvable. Bad rows may have no id. Ids
        # are compared as texts; in a data set they may be numbers.
        rows = [row for row in read_file(path) if isinstance(row, Mapping) and row["id"] is not None]
        return {identifier(row["id"]): bool(row["passable"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, DatasetError) as error:
        raise DatasetError(f"{path} is not a result of `caravan audit --out`: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def filter_and_report(dataset: str, out: Path, criteria: Criteria, part: Part = WHOLE) -> int:
    """Write the kept rows to ``out`` (.jsonl or .parquet), print counts of the others and return the exit status."""
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {out}: the name must end in {' or '.join(SUFFIXES)}")
    if criteria.min_pass > criteria.max_pass:
        raise ConfigError(
            f"--min-pass {criteria.min_pass:g} is above --max-pass {criteria.max_pass:g}: no row can be kept"
        )
    if out.exists() and dataset != "builtin" and Path(dataset).exists() and out.samefile(dataset):
        raise ConfigError(f"--out {out} is the data set itself and would lose its other rows: choose another name")
    if out.exists():
        raise ConfigError(f"--out {out} exists already, and is not overwritten: choose another name, or delete it")
    selection = select_rows(dataset, criteria, part)
    for line in selection.bad_rows[:NUM_SHOWN]:
        print(f"       bad row: {line}")
    for reason, number in selection.excluded.items():
        print(f"{number:6} excluded: {reason}")
    if not selection.rows:
        raise DatasetError(f"no row of {dataset} is kept; {out} is not written")
    try:
        write_rows(out, selection.rows)
    except OSError as error:
        raise DatasetError(f"cannot write {out}: {error.strerror or error}") from None
    print(f"{len(selection.rows):6} kept, in {out}")
    return 0


def _rows(dataset: str, part: Part) -> Iterable[Row]:
    if dataset != "builtin":
        return dataset_rows(dataset, part)
    return [{"prompt": problem.prompt, **asdict(problem)} for problem in load_problems("builtin", part).problems]
