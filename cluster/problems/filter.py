"""``caravan filter``: the rows of a data set that are worth training on, by what was measured of them."""

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

NUM_SHOWN = 3  # bad rows that are named


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a problem must be like to stay; None: that does not matter."""

    pass_rates: Mapping[str, float] | None = None  # measured, by problem id
    min_pass: float = 0.0
    max_pass: float = 1.0
    passable: Mapping[str, bool] | None = None  # by the audit, by problem id
    max_prompt_chars: int | None = None

    def reason_against(self, problem: Problem) -> str | None:
        """Why a problem does not stay; None where it does."""
        if self.max_prompt_chars is not None and len(problem.prompt) > self.max_prompt_chars:
            return "prompt too long"
        if self.passable is not None:
            if problem.id not in self.passable:
                return "not audited"
            if not self.passable[problem.id]:
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
    """What stays of a data set."""

    rows: Sequence[Mapping[str, Any]]  # as they were
    excluded: Mapping[str, int]  # rows by the reason why
    bad_rows: Sequence[str]  # a line for each: which, and why


def select_rows(dataset: str, wanted: Wanted, part: Part = WHOLE) -> Selection:
    """The rows of a data set that are wanted; raises DatasetError where it cannot be read."""
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
        if reason := wanted.reason_against(problem):
            excluded[reason] += 1
        else:
            rows.append(row)
    return Selection(rows=rows, excluded=excluded, bad_rows=bad_rows)


def read_pass_rates(path: Path) -> dict[str, float]:
    """Pass rates by problem, of a file that ``caravan eval --out`` wrote; raises DatasetError."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["by_problem"]
        return {identifier(row["id"]): row["num_passed"] / row["num_completions"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is not a result of `caravan eval --out`: {_why(error)}") from None


def read_passable(path: Path) -> dict[str, bool]:
    """Which problems some solution can pass, of a file that ``caravan audit --out`` wrote; raises DatasetError."""
    try:
        if ending_of(path) not in SUFFIXES:
            raise ValueError("its name ends neither in .jsonl nor in .parquet")
        # A problem that the machine failed to judge is null, and stays out; a row that is no problem may have no id.
        # Ids are compared as texts, which is what problems have; in a data set they may be numbers.
        rows = [row for row in read_file(path) if isinstance(row, Mapping) and row["id"] is not None]
        return {identifier(row["id"]): bool(row["passable"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, DatasetError) as error:
        raise DatasetError(f"{path} is not a result of `caravan audit --out`: {_why(error)}") from None


def _why(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def filter_and_report(dataset: str, out: Path, wanted: Wanted, part: Part = WHOLE) -> int:
    """Write what stays to ``out`` (.jsonl or .parquet) and say what does not; returns the exit code."""
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {out}: the name must end in {' or '.join(SUFFIXES)}")
    if wanted.min_pass > wanted.max_pass:
        raise ConfigError(f"--min-pass {wanted.min_pass:g} is above --max-pass {wanted.max_pass:g}: nothing would stay")
    if out.exists() and dataset != "builtin" and Path(dataset).exists() and out.samefile(dataset):
        raise ConfigError(f"--out {out} is the data set itself, whose other rows would be lost: choose another name")
    selection = select_rows(dataset, wanted, part)
    for line in selection.bad_rows[:NUM_SHOWN]:
        print(f"       bad row: {line}")
    for reason, number in selection.excluded.items():
        print(f"{number:6} left out: {reason}")
    if not selection.rows:
        raise DatasetError(f"nothing of {dataset} stays, and {out} is not written")
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
