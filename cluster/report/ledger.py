"""What a report reads from the ledger of rollouts: column by column and file by file; texts only of what it shows."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.diversity import canonical
from cluster.rollout_files import read_rollouts
from cluster.run_folder import RunFolder
from cluster.types import Verdict

COLUMNS = ("problem_id", "total_reward", "verdict", "sampling_seconds", "grading_seconds", "degenerate")
EXAMPLE_COLUMNS = (
    *("step", "problem_id", "completion_id", "fate", "total_reward", "verdict", "tests_passed", "tests_total"),
    *("degenerate", "text", "diagnostics"),
)
MIN_ATTEMPTS = 4  # completions of a problem before it is called hard
CROWD_SHARE = 0.05  # of those, before a program is shown as one
CROWD_TEXTS = 2000  # newest completions that are searched for one program that answers many problems
MAX_TEXT = 4000  # characters of a text that are shown


@dataclass(slots=True)
class OfProblem:
    """The completions of one problem."""

    id: str
    num: int = 0
    num_passed: int = 0
    reward: float = 0.0  # sum
    best: float = 0.0
    seconds: float = 0.0  # of sampling and grading, sum

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


Place = tuple[Path, int]  # file and row


@dataclass(slots=True)
class _Chosen:
    """Places of the completions to show: of each kind the one of highest rank, of equal ones the newest."""

    found: dict[Any, tuple[tuple[float, int], Place]] = field(default_factory=dict)  # by kind: (rank, order), place

    def offer(self, kind: Any, rank: float, order: int, place: Place) -> None:
        known = self.found.get(kind)
        if known is None or (rank, order) > known[0]:
            self.found[kind] = ((rank, order), place)

    def places(self, num: int) -> list[Place]:
        return [place for _, place in heapq.nlargest(num, self.found.values())]


def read_ledger(folder: RunFolder, *, num_examples: int = 6) -> Ledger:
    """Read what a run has stored so far; raises RunFolderError for a file that cannot be read.

    The best are of different problems, the worst of different verdicts, and suspects bear different signs.
    """
    problems: dict[str, OfProblem] = {}
    best, worst, suspects = _Chosen(), _Chosen(), _Chosen()
    num = num_graded = 0
    paths = folder.rollout_files()
    for path in paths:
        columns = _read(path, COLUMNS)
        for index, (problem, reward, verdict, sampling, grading, signs) in enumerate(
            zip(*(columns[name] for name in COLUMNS), strict=True)
        ):
            num += 1
            if verdict is None:
                continue
            num_graded += 1
            found = problems.setdefault(problem, OfProblem(problem))
            found.num += 1
            found.num_passed += verdict == Verdict.PASSED
            found.reward += reward
            found.best = max(found.best, reward)
            found.seconds += (sampling or 0.0) + (grading or 0.0)
            place = (path, index)
            best.offer(problem, reward, num, place)
            worst.offer(verdict, -reward, num, place)
            if signs and reward > 0:
                suspects.offer(tuple(signs), reward, num, place)
    hacking = [
        *_examples(suspects.places(num_examples), "pays, though it looks like no answer"),
        *_crowd(paths),
    ]
    return Ledger(
        num_completions=num,
        num_graded=num_graded,
        problems=list(problems.values()),
        best=_examples(best.places(num_examples), "among the best"),
        worst=_examples(worst.places(num_examples), "the least that this verdict earned"),
        suspects=hacking,
    )


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
    """The completions at these places; each file is read once, and only rows that are shown become texts."""
    rows: dict[Place, Mapping[str, Any]] = {}
    for path in {path for path, _ in places}:
        table = read_rollouts(path, EXAMPLE_COLUMNS)
        for index in (index for other, index in places if other == path):
            rows[path, index] = {name: table.column(name)[index].as_py() for name in EXAMPLE_COLUMNS}
    return [Example(why=why, row=rows[place]) for place in places]


def shortened(text: str) -> str:
    """A text as it is shown: not longer than MAX_TEXT characters, and saying so."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}\n... {len(text) - MAX_TEXT} more characters"


def _read(path: Path, columns: Sequence[str]) -> dict[str, list[Any]]:
    table = read_rollouts(path, columns)
    return {name: table.column(name).to_pylist() for name in columns}
