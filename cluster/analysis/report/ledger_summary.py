"""Summary of a run's ledger: statistics by problem over all completions, and the texts of a few examples."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.ledger.columns import MISSING, Codes, LedgerColumns, Numbers, Rows, read_columns
from cluster.ledger.files import RowReference, read_rollouts, read_rows
from cluster.ledger.run_folder import RunFolder
from cluster.loop.diversity import canonical
from cluster.types import Verdict

EXAMPLE_COLUMNS = (
    *("step", "problem_id", "group_id", "completion_id", "fate", "total_reward", "verdict"),
    *("tests_passed", "tests_total", "degenerate", "text", "diagnostics"),
)
MIN_COMPLETIONS = 4  # problems with fewer are not listed among the hardest
MAX_REPEAT_SEARCH = 2000  # newest failed completions that are searched for a repeated program
MIN_REPEAT_SHARE = 0.05  # share of these that must be the same program


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSummary:
    """Statistics over the graded completions of one problem."""

    id: str
    num_completions: int
    num_passed: int
    total_reward: float
    best_reward: float
    total_seconds: float  # sampling and grading

    @property
    def pass_rate(self) -> float:
        """Share of the completions that passed all tests."""
        return self.num_passed / self.num_completions

    @property
    def mean_reward(self) -> float:
        """Mean reward of a completion."""
        return self.total_reward / self.num_completions

    @property
    def mean_seconds(self) -> float:
        """Mean seconds to sample and grade a completion."""
        return self.total_seconds / self.num_completions


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A completion that is shown, and the reason to show it."""

    reason: str
    row: Mapping[str, Any]  # EXAMPLE_COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSummary:
    """The completions of a run as a report shows them."""

    num_completions: int = 0
    num_graded: int = 0
    problems: Sequence[ProblemSummary] = ()
    best: Sequence[Example] = ()
    worst: Sequence[Example] = ()
    suspects: Sequence[Example] = ()  # of reward hacking

    def hardest(self, num: int) -> list[ProblemSummary]:
        """Problems with the lowest pass rate among those with at least MIN_COMPLETIONS completions."""
        candidates = [problem for problem in self.problems if problem.num_completions >= MIN_COMPLETIONS]
        return sorted(candidates, key=lambda problem: (problem.pass_rate, problem.mean_reward, problem.id))[:num]

    def slowest(self, num: int) -> list[ProblemSummary]:
        """Problems whose completions take longest to sample and grade."""
        return sorted(self.problems, key=lambda problem: (-problem.mean_seconds, problem.id))[:num]


def read_summary(folder: RunFolder) -> LedgerSummary:
    """Read and summarize the completions stored so far; raises RunFolderError for a file that cannot be read."""
    return summarize_ledger(read_columns(folder.rollout_files()))


def summarize_ledger(columns: LedgerColumns, *, num_examples: int = 6) -> LedgerSummary:
    """Summarize completions; raises RunFolderError if the texts of examples cannot be read.

    The best examples are of different problems, the worst of different verdicts, and the suspects have different quality flags.
    """
    verdicts, rewards = columns.codes["verdict"], columns.numbers["total_reward"]
    graded = np.flatnonzero(verdicts != MISSING)
    no_flags = columns.code("signs", "")
    suspects = graded[(columns.codes["signs"][graded] != no_flags) & (rewards[graded] > 0)]

    def examples(rows: Rows, distinct: str, ranks: Numbers, reason: str) -> list[Example]:
        chosen = _highest_of_each(rows, columns.codes[distinct], ranks)[:num_examples]
        return _read_examples([columns.reference(row) for row in chosen], reason)

    return LedgerSummary(
        num_completions=columns.num_rows,
        num_graded=len(graded),
        problems=_problems(columns, graded),
        best=examples(graded, "problem_id", rewards, "among the best"),
        worst=examples(graded, "verdict", -rewards, "lowest reward of this verdict"),
        suspects=[
            *examples(suspects, "signs", rewards, "rewarded despite low-quality flags"),
            *_repeated_program([file.path for file in columns.files]),
        ],
    )


def _highest_of_each(rows: Rows, codes: Codes, ranks: Numbers) -> Rows:
    """Choose, for each code, the row with the highest rank (the newest of equal ones), in the order of their ranks."""
    newest_first = rows[::-1]
    ranked = newest_first[np.argsort(-ranks[newest_first], kind="stable")]
    _, first = np.unique(codes[ranked], return_index=True)
    chosen: Rows = ranked[np.sort(first)]
    return chosen


def _problems(columns: LedgerColumns, graded: Rows) -> list[ProblemSummary]:
    codes, problem_ids = columns.codes["problem_id"][graded], columns.words["problem_id"]
    rewards = columns.numbers["total_reward"][graded]
    seconds = sum(np.nan_to_num(columns.numbers[name][graded]) for name in ("sampling_seconds", "grading_seconds"))
    passed = columns.codes["verdict"][graded] == columns.code("verdict", Verdict.PASSED)
    best = np.zeros(len(problem_ids))
    np.maximum.at(best, codes, rewards)
    num_completions, num_passed, total_reward, total_seconds = (
        np.bincount(codes, weights=weights, minlength=len(problem_ids)) for weights in (None, passed, rewards, seconds)
    )
    return [
        ProblemSummary(
            id=problem_ids[code],
            num_completions=int(num_completions[code]),
            num_passed=int(num_passed[code]),
            total_reward=float(total_reward[code]),
            best_reward=float(best[code]),
            total_seconds=float(total_seconds[code]),
        )
        for code in np.flatnonzero(num_completions)
    ]


def _repeated_program(paths: Sequence[Path]) -> Iterator[Example]:
    """Find the program, up to renaming, that fails on the most different problems among the newest failed completions.

    Yields nothing if every program belongs to a single problem or is rarer than MIN_REPEAT_SHARE.
    """
    problems_of: dict[str, set[str]] = defaultdict(set)
    first_row: dict[str, RowReference] = {}
    count: Counter[str] = Counter()
    for path in reversed(paths):
        if count.total() >= MAX_REPEAT_SEARCH:
            break
        rows = read_rollouts(path, ("problem_id", "verdict", "text")).to_pylist()
        for index, row in enumerate(rows):
            if row["verdict"] in (None, Verdict.PASSED) or not (row["text"] or "").strip():
                continue
            program = canonical(row["text"])
            count[program] += 1
            problems_of[program].add(row["problem_id"])
            first_row.setdefault(program, (path, index))
    num_failed = count.total()
    repeated = [
        program
        for program, problems in problems_of.items()
        if len(problems) > 1 and count[program] >= MIN_REPEAT_SHARE * num_failed
    ]
    if repeated:
        program = max(repeated, key=lambda candidate: (len(problems_of[candidate]), count[candidate]))
        reason = (
            f"the same program for {len(problems_of[program])} different problems, {count[program]} of the {num_failed} "
            "newest failed completions"
        )
        yield from _read_examples([first_row[program]], reason)


def _read_examples(references: Sequence[RowReference], reason: str) -> list[Example]:
    return [Example(reason=reason, row=row) for row in read_rows(references, EXAMPLE_COLUMNS)]
