"""What a report says of the ledger of rollouts: from a few columns of all completions, and texts of those alone that it shows."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.ledger.columns import MISSING, Codes, LedgerColumns, Numbers, Rows, read_columns
from cluster.ledger.files import Place, read_places, read_rollouts
from cluster.ledger.run_folder import RunFolder
from cluster.loop.diversity import canonical
from cluster.types import Verdict

EXAMPLE_COLUMNS = (
    *(
        "step",
        "problem_id",
        "group_id",
        "completion_id",
        "fate",
        "total_reward",
        "verdict",
        "tests_passed",
        "tests_total",
    ),
    *("degenerate", "text", "diagnostics"),
)
MIN_ATTEMPTS = 4  # completions of a problem before it is called hard
CROWD_SHARE = 0.05  # of those, before a program is shown as one
CROWD_TEXTS = 2000  # newest completions that are searched for one program that answers many problems
MAX_TEXT = 4000  # characters of a text that are shown


@dataclass(frozen=True, slots=True, kw_only=True)
class OfProblem:
    """The completions of one problem."""

    id: str
    num: int
    num_passed: int
    reward: float  # sum
    best: float
    seconds: float  # of sampling and grading, sum

    @property
    def mean_reward(self) -> float:
        """Over its graded completions."""
        return self.reward / self.num

    @property
    def mean_seconds(self) -> float:
        """Of sampling and grading one completion."""
        return self.seconds / self.num


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One completion that is shown, and why."""

    why: str
    row: Mapping[str, Any]  # EXAMPLE_COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What a report says of the completions of a run."""

    num_completions: int
    num_graded: int
    problems: Sequence[OfProblem] = ()
    best: Sequence[Example] = ()
    worst: Sequence[Example] = ()
    suspects: Sequence[Example] = ()

    def hardest(self, num: int) -> list[OfProblem]:
        """Problems that earn least, of those that were tried often enough."""
        tried = [one for one in self.problems if one.num >= MIN_ATTEMPTS]
        return sorted(tried, key=lambda one: (one.num_passed / one.num, one.mean_reward, one.id))[:num]

    def slowest(self, num: int) -> list[OfProblem]:
        """Problems whose completions take longest to sample and grade."""
        return sorted(self.problems, key=lambda one: (-one.mean_seconds, one.id))[:num]


def read_ledger(folder: RunFolder) -> Ledger:
    """Read what a run has stored so far; raises RunFolderError for a file that cannot be read."""
    return ledger_of(read_columns(folder.rollout_files()))


def ledger_of(columns: LedgerColumns, *, num_examples: int = 6) -> Ledger:
    """What a report says of these completions; raises RunFolderError where texts cannot be read.

    The best are of different problems, the worst of different verdicts, and suspects bear different signs.
    """
    verdicts, rewards = columns.codes["verdict"], columns.numbers["total_reward"]
    graded = np.flatnonzero(verdicts != MISSING)
    no_signs = columns.code("signs", "")
    suspects = graded[(columns.codes["signs"][graded] != no_signs) & (rewards[graded] > 0)]

    def places(rows: Rows, kind: str, ranks: Numbers) -> list[Place]:
        return [columns.place(row) for row in _first_of_each(rows, columns.codes[kind], ranks)[:num_examples]]

    return Ledger(
        num_completions=columns.num_rows,
        num_graded=len(graded),
        problems=_problems(columns, graded),
        best=_examples(places(graded, "problem_id", rewards), "among the best"),
        worst=_examples(places(graded, "verdict", -rewards), "the least that this verdict earned"),
        suspects=[
            *_examples(places(suspects, "signs", rewards), "pays, though it looks like no answer"),
            *_crowd([file.path for file in columns.files]),
        ],
    )


def _first_of_each(rows: Rows, kinds: Codes, ranks: Numbers) -> Rows:
    """Of each kind the row of highest rank, of equal ones the newest; themselves in that order."""
    newest_first = rows[::-1]
    ordered = newest_first[np.argsort(-ranks[newest_first], kind="stable")]
    _, first = np.unique(kinds[ordered], return_index=True)
    chosen: Rows = ordered[np.sort(first)]
    return chosen


def _problems(columns: LedgerColumns, graded: Rows) -> list[OfProblem]:
    """The sums over the graded completions of each problem."""
    of, words = columns.codes["problem_id"][graded], columns.words["problem_id"]
    rewards = columns.numbers["total_reward"][graded]
    seconds = sum(np.nan_to_num(columns.numbers[name][graded]) for name in ("sampling_seconds", "grading_seconds"))
    passed = columns.codes["verdict"][graded] == columns.code("verdict", Verdict.PASSED)
    best = np.zeros(len(words))
    np.maximum.at(best, of, rewards)
    sums = [np.bincount(of, weights=weights, minlength=len(words)) for weights in (None, passed, rewards, seconds)]
    return [
        OfProblem(
            id=word, num=int(num), num_passed=int(won), reward=float(reward), best=float(top), seconds=float(took)
        )
        for word, num, won, reward, took, top in zip(words, *sums, best, strict=True)
        if num
    ]


def _crowd(paths: Sequence[Path]) -> Iterator[Example]:
    """The program, up to renaming, that answers most problems among the newest completions without passing, if it is several."""
    asked_by: dict[str, set[str]] = defaultdict(set)
    first: dict[str, Place] = {}
    num_of: Counter[str] = Counter()
    num = 0
    for path in reversed(paths):
        if num >= CROWD_TEXTS:
            break
        columns = _read(path, ("problem_id", "verdict", "text"))
        for index, (problem, verdict, text) in enumerate(
            zip(columns["problem_id"], columns["verdict"], columns["text"], strict=True)
        ):
            if verdict is None or verdict == Verdict.PASSED or not (text or "").strip():
                continue
            num += 1
            program = canonical(text)
            num_of[program] += 1
            asked_by[program].add(problem)
            first.setdefault(program, (path, index))
    crowds = [one for one, problems in asked_by.items() if len(problems) > 1 and num_of[one] >= CROWD_SHARE * num]
    if crowds:
        program = max(crowds, key=lambda one: (len(asked_by[one]), num_of[one]))
        why = f"the answer to {len(asked_by[program])} different problems, {num_of[program]} of the {num} newest that do not pass"
        yield from _examples([first[program]], why)


def _examples(places: Sequence[Place], why: str) -> list[Example]:
    """The completions at these places."""
    return [Example(why=why, row=row) for row in read_places(places, EXAMPLE_COLUMNS)]


def shortened(text: str) -> str:
    """A text as it is shown: not longer than MAX_TEXT characters, and saying so."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}\n... {len(text) - MAX_TEXT} more characters"


def _read(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    table = read_rollouts(path, columns)
    return {name: table.column(name).to_pylist() for name in columns}
