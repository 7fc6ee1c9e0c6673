"""Loading of data sets, the split into training and held-out problems, and the order of training problems."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.config.dataset_part import WHOLE, Part
from cluster.errors import DatasetError
from cluster.problems.dataset_files import Row
from cluster.problems.dataset_sources import BUILTIN, read_source
from cluster.types import Problem
from grader import fields
from grader.signature import split_prompt

# Accepted column names by field, the usual one first.
COLUMNS = {
    "id": ("id", "problem_id", "task_id"),
    "prompt": ("prompt", "problem", "question", "messages", "conversations", "conversation"),
    "tests": ("tests", "test", "test_list"),
    "solution": ("solution", "reference", "canonical_solution"),
    "difficulty": ("difficulty", "level"),
}
REQUIRED = ("id", "prompt", "tests")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedProblems:
    """The problems of a data set in its order, and the rows that are no problems."""

    problems: tuple[Problem, ...]
    bad_rows: tuple[str, ...]  # one line each: row number and reason

    def describe_bad_rows(self, num_shown: int = 3) -> str:
        """Return the number of bad rows and the first few of them; empty if there are none."""
        if not self.bad_rows:
            return ""
        more = f"; and {len(self.bad_rows) - num_shown} more" if len(self.bad_rows) > num_shown else ""
        return f"{len(self.bad_rows)} bad rows are skipped: {'; '.join(self.bad_rows[:num_shown])}{more}"


def load_problems(dataset: str, part: Part = WHOLE) -> LoadedProblems:
    """Load ``builtin``, a local file or folder, or a data set of the Hugging Face hub.

    ``part`` selects split, configuration and revision. Raises DatasetError if the data set cannot be read, lacks a column or has
    no usable row.
    """
    if dataset == BUILTIN:
        from cluster.problems.builtin import builtin_problems

        part.refuse("split", "config", "revision", because="the built-in problems have one part")
        return LoadedProblems(problems=tuple(builtin_problems()), bad_rows=())
    loaded = read_rows(dataset_rows(dataset, part))
    if not loaded.problems:
        raise DatasetError(f"{dataset} has no usable problem: {loaded.describe_bad_rows() or 'it is empty'}")
    return loaded


def read_rows(rows: Iterable[Row]) -> LoadedProblems:
    """Convert rows to problems. Bad rows are listed with the reason instead of raising."""
    problems: list[Problem] = []
    bad_rows: list[str] = []
    seen = SeenIds()
    for number, row in enumerate(rows, start=1):
        try:
            if isinstance(row, str):
                raise ValueError(row)
            problem = read_row(row)
            if repeated := seen.add(problem, number):
                raise ValueError(repeated)
        except ValueError as error:
            bad_rows.append(f"row {number}: {error}")
            continue
        problems.append(problem)
    return LoadedProblems(problems=tuple(problems), bad_rows=tuple(bad_rows))


class SeenIds:
    """Ids read so far. Of several rows with the same id, the first one counts."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[int, Problem]] = {}

    def add(self, problem: Problem, number: int) -> str:
        """Add a problem. Returns an error text if its id is taken, else an empty text."""
        first, same = self._first.setdefault(problem.id, (number, problem))
        if first == number:
            return ""
        if same == problem:
            return f"duplicate id {quoted_id(problem.id)}: a copy of row {first}"
        return f"duplicate id {quoted_id(problem.id)}: row {first} has the same id and other content; give each row its own id"


def read_row(row: Mapping[str, Any]) -> Problem:
    """Convert a row to a Problem. Raises ValueError with the reason if it is not one."""
    values = {field: _value(row, names) for field, names in COLUMNS.items()}
    problem_id = fields.identifier(raw_id(row))
    named = quoted_id(problem_id)
    for field in REQUIRED:
        if values[field] is None:
            raise ValueError(f"no {field} (id {named})")
    try:
        asked = fields.prompt_cell(values["prompt"])
        tests = fields.tests(values["tests"])
        solution = asked.answer if values["solution"] is None else fields.answer(values["solution"], "solution")
        solution = None if solution is None else fields.plain_code(solution, "solution")
        difficulty = None if values["difficulty"] is None else str(values["difficulty"]).strip()
        statement, signature = split_prompt(asked.prompt)
    except fields.IncompleteRow as error:
        raise fields.IncompleteRow(f"{error} (id {named})", code=error.code) from None
    except ValueError as error:
        raise ValueError(f"{error} (id {named})") from None
    problem = Problem(
        id=problem_id,
        statement=statement,
        signature=signature,
        tests=tests,
        difficulty=difficulty,
        solution=solution,
    )
    for field in COLUMNS:
        try:
            (getattr(problem, field) or "").encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the {field} of {named} contains an unpaired surrogate, which is not a character"
            ) from None
    return problem


def quoted_id(problem_id: str) -> str:
    """Return an id for a message: quoted, and shortened if long."""
    return repr(problem_id if len(problem_id) <= 80 else f"{problem_id[:77]}...")


def dataset_rows(dataset: str, part: Part = WHOLE) -> Sequence[Row]:
    """Return the rows of a data set unchanged; for a row that cannot be parsed, the reason as a text. Raises DatasetError."""
    rows = read_source(dataset, part, [name for names in COLUMNS.values() for name in names])
    # A column counts as present if any row has it: a row without it is a bad row, not a data set of another form.
    _check_columns(dataset, dict.fromkeys(name for row in rows if not isinstance(row, str) for name in row))
    return rows


def raw_id(row: Mapping[str, Any]) -> Any:
    """Return the id of a row unchanged; None if it has none."""
    found = _value(row, COLUMNS["id"])
    return next((row[name] for name in COLUMNS["id"] if row.get(name) is not None), None) if found is None else found


def _check_columns(dataset: str, columns: Iterable[str]) -> None:
    present = [str(name) for name in columns]
    for field in REQUIRED:
        if present and not any(name in present for name in COLUMNS[field]):
            there = ", ".join(name if len(name) <= 40 else f"{name[:37]}..." for name in present[:20])
            raise DatasetError(
                f"{dataset} has no column {' or '.join(repr(name) for name in COLUMNS[field])}; it has {' '.join(there.split())}"
            )


def _value(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((row[name] for name in names if not fields.is_missing(row.get(name))), None)


def split(problems: Sequence[Problem], held_out: int, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Split into training and held-out problems, deterministic in the problems, ``held_out`` and ``seed``."""
    if held_out >= len(problems):
        raise DatasetError(
            f"data.held_out={held_out} leaves no training problems: the data set has {len(problems)} usable problems; "
            "lower data.held_out"
        )
    shuffled = sorted(problems, key=lambda problem: problem.id)
    random.Random(f"split {seed}").shuffle(shuffled)
    return shuffled[held_out:], shuffled[:held_out]


class ProblemStream:
    """Endless stream of the training problems. Each epoch is a new shuffle of all of them.

    The problem at position ``n`` is a pure function of ``(problems, seed, n)``, so that a resumed run needs only the position.
    """

    def __init__(self, problems: Sequence[Problem], seed: int) -> None:
        self._problems = list(problems)
        self._seed = seed
        self._order: tuple[int, list[int]] = (-1, [])  # an epoch and its order

    def __len__(self) -> int:
        """Return the number of problems in an epoch."""
        return len(self._problems)

    def at(self, position: int) -> Problem:
        """Return the problem at a position, counted from 0."""
        epoch, offset = divmod(position, len(self._problems))
        if self._order[0] != epoch:
            order = list(range(len(self._problems)))
            random.Random(f"epoch {epoch} {self._seed}").shuffle(order)
            self._order = (epoch, order)
        return self._problems[self._order[1][offset]]


def describe(problems: Sequence[Problem]) -> str:
    """Return the number of problems in all and by difficulty, for a message."""
    counts = Counter(problem.difficulty or "unrated" for problem in problems)
    return f"{len(problems)} problems ({', '.join(f'{count} {name}' for name, count in counts.most_common())})"
