"""Problems: loading a data set, the split into training and held-out, and the order in which training meets them."""

import csv
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.types import DatasetError, Problem
from grader.signature import split_prompt

# The names under which data sets keep the same thing, the usual one first.
COLUMNS = {
    "id": ("id", "problem_id", "task_id"),
    "prompt": ("prompt", "problem", "question"),
    "tests": ("tests", "test"),
    "solution": ("solution", "reference", "canonical_solution"),
    "difficulty": ("difficulty", "level"),
}
REQUIRED = ("id", "prompt", "tests")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedProblems:
    """The usable problems of a data set, in its order, and what was wrong with the other rows."""

    problems: tuple[Problem, ...]
    bad_rows: tuple[str, ...]  # one line each: which row, and why

    def describe_bad_rows(self, shown: int = 3) -> str:
        """A sentence that counts the bad rows and names the first ones; empty when there are none."""
        if not self.bad_rows:
            return ""
        more = f"; and {len(self.bad_rows) - shown} more" if len(self.bad_rows) > shown else ""
        return f"{len(self.bad_rows)} bad rows left out: {'; '.join(self.bad_rows[:shown])}{more}"


def load_problems(dataset: str) -> LoadedProblems:
    """Load ``builtin``, a local CSV, JSONL or Parquet file, or a data set of the Hugging Face hub.

    Raises DatasetError where it cannot be read, lacks a column, or has no usable row.
    """
    if dataset == "builtin":
        from cluster.builtin import builtin_problems

        return LoadedProblems(problems=tuple(builtin_problems()), bad_rows=())
    loaded = read_rows(dataset_rows(dataset))
    if not loaded.problems:
        raise DatasetError(f"{dataset} has no usable problem: {loaded.describe_bad_rows() or 'it is empty'}")
    return loaded


def read_rows(rows: Iterable[Mapping[str, Any] | str]) -> LoadedProblems:
    """Turn rows into problems; a row that is no problem (or a text that says why it could not be parsed) is named, not raised."""
    problems: list[Problem] = []
    bad_rows: list[str] = []
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            bad_rows.append(f"row {number}: {row}")
            continue
        try:
            problem = read_row(row)
        except ValueError as error:
            bad_rows.append(f"row {number}: {error}")
            continue
        if problem.id in seen:
            bad_rows.append(f"row {number}: duplicate id {problem.id!r}")
            continue
        seen.add(problem.id)
        problems.append(problem)
    return LoadedProblems(problems=tuple(problems), bad_rows=tuple(bad_rows))


def read_row(row: Mapping[str, Any]) -> Problem:
    """One row as a Problem; raises ValueError saying what is wrong with it."""
    values = {field: _value(row, names) for field, names in COLUMNS.items()}
    for field in REQUIRED:
        if values[field] is None:
            raise ValueError(f"no {field}" + (f" (id {values['id']!r})" if values["id"] else ""))
    for field, value in values.items():
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the {field} of {values['id']!r} holds half of a surrogate pair, which is no character"
            ) from None
    tests = str(values["tests"])
    if "assert" not in tests:
        raise ValueError(f"the tests of {values['id']!r} hold no assert")
    try:
        statement, signature = split_prompt(str(values["prompt"]))
    except ValueError as error:
        raise ValueError(f"the prompt of {values['id']!r}: {error}") from None
    return Problem(
        id=str(values["id"]),
        statement=statement,
        signature=signature,
        tests=tests,
        difficulty=None if values["difficulty"] is None else str(values["difficulty"]),
        solution=None if values["solution"] is None else str(values["solution"]),
    )


def split(problems: Sequence[Problem], held_out: int, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Training and held-out problems; the same for the same problems, number and seed, wherever it runs."""
    if held_out >= len(problems):
        raise DatasetError(
            f"data.held_out={held_out} leaves nothing to train on: the data set has {len(problems)} usable problems; "
            "lower data.held_out"
        )
    shuffled = sorted(problems, key=lambda problem: problem.id)
    random.Random(f"split {seed}").shuffle(shuffled)
    return shuffled[held_out:], shuffled[:held_out]


class ProblemStream:
    """An endless, seeded order of the training problems: every epoch shows each of them once, in an order of its own.

    Position ``n`` of the stream is a pure function of ``(problems, seed, n)``: resuming needs a number, not a replay.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self._problems = list(problems)
        self._seed = seed
        self._order: tuple[int, list[int]] = (-1, [])

    def __len__(self) -> int:
        """Problems in one epoch."""
        return len(self._problems)

    def at(self, position: int) -> Problem:
        """The problem at a position, 0 <= position."""
        epoch, offset = divmod(position, len(self._problems))
        if self._order[0] != epoch:
            order = list(range(len(self._problems)))
            random.Random(f"epoch {epoch} {self._seed}").shuffle(order)
            self._order = (epoch, order)
        return self._problems[self._order[1][offset]]


def describe(problems: Sequence[Problem]) -> str:
    """How many, and of which difficulty."""
    counts = Counter(problem.difficulty or "unrated" for problem in problems)
    return f"{len(problems)} problems ({', '.join(f'{count} {name}' for name, count in counts.most_common())})"


def dataset_rows(dataset: str) -> Sequence[Mapping[str, Any] | str]:
    """The rows of a data set as they are; a text says why one could not be parsed. Raises DatasetError."""
    path = Path(dataset)
    reader = READERS.get(path.suffix.lower())
    if reader and not path.is_file():
        raise DatasetError(f"data.dataset={dataset}: there is no such file")
    if path.exists() and not reader:
        raise DatasetError(f"data.dataset={dataset}: a local file must end in {', '.join(READERS)}")
    try:
        rows = reader(path) if reader else _read_hub(dataset)
    except (OSError, ValueError, csv.Error) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        hint = "" if reader else " (no network? give a local file, or 'builtin')"
        raise DatasetError(f"data.dataset={dataset} cannot be read: {reason}{hint}") from None
    # A row may lack what the others have: that is one bad row, not a data set of another form.
    _check_columns(dataset, dict.fromkeys(name for row in rows if not isinstance(row, str) for name in row))
    return rows


def _read_csv(path: Path) -> list[Mapping[str, Any] | str]:
    csv.field_size_limit(1 << 24)  # the default refuses fields over 128 KiB
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def _read_jsonl(path: Path) -> list[Mapping[str, Any] | str]:
    rows: list[Mapping[str, Any] | str] = []
    # Only "\n" ends a line of JSONL; str.splitlines would also cut at U+2028 and the like, which may stand inside strings.
    for line in path.read_text(encoding="utf-8-sig").split("\n"):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: no JSON, or a number of thousands of digits
            rows.append(f"not JSON: {error}")
            continue
        rows.append(row if isinstance(row, dict) else f"not an object but {type(row).__name__}")
    return rows


def _read_parquet(path: Path) -> list[Mapping[str, Any] | str]:
    import pyarrow.parquet as pq

    return list(pq.read_table(path).to_pylist())


def _read_hub(dataset: str) -> list[Mapping[str, Any] | str]:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    try:
        return list(datasets.load_dataset(dataset, split="train"))
    except DatasetNotFoundError:
        raise DatasetError(
            f"data.dataset={dataset}: neither a file here nor a data set that the Hugging Face hub shows; "
            "check the name, the network, or log in with `hf auth login` if it is private"
        ) from None


READERS: Mapping[str, Callable[[Path], list[Mapping[str, Any] | str]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _check_columns(dataset: str, columns: Iterable[str]) -> None:
    present = list(columns)
    for field in REQUIRED:
        if present and not any(name in present for name in COLUMNS[field]):
            raise DatasetError(
                f"{dataset} has no column {' or '.join(repr(name) for name in COLUMNS[field])}; it has {', '.join(present)}"
            )


def _value(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        value = row.get(name)
        if value is not None and str(value).strip():
            return value if not isinstance(value, str) else value.strip("\n")
    return None
