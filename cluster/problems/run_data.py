"""The data of a run: the problems that it was started with, and which of them it trains on or holds out.

Kept in ``data.jsonl``, a row per problem in the order of the data. A run that is resumed with other data is refused, or, where
that is allowed, keeps its split: a problem is known by its text, and by its id where its text has changed.
"""

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from cluster.config.config import Config
from cluster.errors import DatasetError, RunFolderError
from cluster.ledger.run_folder import RunFolder
from cluster.problems.dataset import shown, split
from cluster.types import Problem

NUM_SHOWN = 5  # ids that a message names of each kind of change
FLAG = "--allow-changed-data"


class Side(StrEnum):
    """What a run does with a problem."""

    TRAINING = "training"
    HELD_OUT = "held_out"
    LEFT_OUT = "left_out"  # its prompt is too long, or no solution can pass it


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One problem as a run knows it."""

    id: str
    task: str  # fingerprint of prompt and tests
    rest: str  # fingerprint of solution and difficulty
    part: Side
    position: int  # in its part
    present: bool = True  # in the data of the last start


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """The problems of a data set beside those of a run."""

    entries: Mapping[str, Entry]  # by the problem's id now: what the run knew it as
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()  # id before, id now
    is_reordered: bool = False

    @property
    def is_same(self) -> bool:
        """Return whether the problems are the same; their order has no effect on a run."""
        return not (self.added or self.removed or self.changed or self.renamed)

    def describe(self) -> str:
        """Return what is different, with ids."""
        renamed = [f"{shown(before)} is now {shown(now)}" for before, now in self.renamed]
        kinds = (
            (map(shown, self.removed), len(self.removed), "removed"),
            (map(shown, self.added), len(self.added), "added"),
            (map(shown, self.changed), len(self.changed), "changed"),
            (renamed, len(renamed), "with another id"),
        )
        parts = [f"{number} {kind} ({_first(names, number)})" for names, number, kind in kinds if number]
        return ", ".join([*parts, *(["the others in another order"] if self.is_reordered else [])])


class RunData:
    """What a run knows of its data."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = tuple(entries)

    @classmethod
    def read(cls, folder: RunFolder) -> "RunData | None":
        """Read what a run keeps; None where it keeps nothing, as a run of an older Caravan. Raises RunFolderError."""
        if not folder.data.exists():
            return None
        try:
            rows = [json.loads(line) for line in folder.data.read_text(encoding="utf-8").split("\n") if line]
            return cls(Entry(**{**row, "part": Side(row["part"])}) for row in rows)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunFolderError(
                f"{folder.data} cannot be read ({error}): without it nothing tells which problems are held out. Restore it, or "
                "start another run with run.name=NAME"
            ) from None

    def to_jsonl(self) -> str:
        """Return the file's content."""
        return "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in self._entries)

    def match(self, problems: Sequence[Problem]) -> Matched:
        """Find the problems of a data set among those of the run: by text and id, then by text alone, then by id alone."""
        tasks = {problem.id: task_of(problem) for problem in problems}
        waiting = {(entry.id, entry.task): entry for entry in self._entries}
        found: dict[str, Entry] = {}

        def take(problem: Problem, entry: Entry | None) -> None:
            if entry is not None and problem.id not in found:
                found[problem.id] = waiting.pop((entry.id, entry.task))

        for problem in problems:
            take(problem, waiting.get((problem.id, tasks[problem.id])))
        by_task: dict[str, list[Entry]] = {}
        for entry in waiting.values():
            by_task.setdefault(entry.task, []).append(entry)
        for problem in problems:
            if problem.id not in found and (same := by_task.get(tasks[problem.id])):
                take(problem, same.pop())
        by_id = {entry.id: entry for entry in waiting.values()}
        for problem in problems:
            take(problem, by_id.get(problem.id))
        return self._matched(problems, tasks, found)

    def _matched(self, problems: Sequence[Problem], tasks: Mapping[str, str], found: Mapping[str, Entry]) -> Matched:
        places = {entry: number for number, entry in enumerate(self._entries)}
        order = [places[found[problem.id]] for problem in problems if problem.id in found]
        known = set(found.values())
        changed = []
        for problem in problems:
            entry = found.get(problem.id)
            if entry and entry.present and (entry.task, entry.rest) != (tasks[problem.id], rest_of(problem)):
                changed.append(problem.id)
        return Matched(
            entries=found,
            added=tuple(one.id for one in problems if one.id not in found or not found[one.id].present),
            removed=tuple(entry.id for entry in self._entries if entry.present and entry not in known),
            changed=tuple(changed),
            renamed=tuple((entry.id, now) for now, entry in found.items() if entry.present and entry.id != now),
            is_reordered=any(before > after for before, after in pairwise(order)),
        )

    def check(self, problems: Sequence[Problem], path: Path, *, allowed: bool) -> str:
        """Return a line about what is different, empty where nothing is; raises RunFolderError where that is not allowed."""
        matched = self.match(problems)
        if matched.is_same:
            return "the rows of the data are in another order, which changes nothing" if matched.is_reordered else ""
        if not allowed:
            raise RunFolderError(
                f"{path} was started with other data: {matched.describe()}. Give it the data that it was started with, start "
                f"another run with run.name=NAME, or accept the change: `caravan train --resume "
                f"{shlex.quote(str(path))} {FLAG}` keeps the held-out problems that are left, and trains on new ones"
            )
        if not self.knows_any(problems):
            raise RunFolderError(
                f"{path} was started with data of which no problem is left: {matched.describe()}. Start another run with "
                "run.name=NAME"
            )
        return f"the data has changed: {matched.describe()}"

    def knows_any(self, problems: Iterable[Problem]) -> bool:
        """Return whether the text of any of these problems is one of the run's."""
        tasks = {task_of(problem) for problem in problems}
        return any(entry.task in tasks for entry in self._entries)

    def split(self, problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem], list[Problem]]:
        """Return training problems and held-out ones, as the run has them, in its order, and those that it does not know."""
        entries = self.match(problems).entries
        parts: dict[Side, list[tuple[int, Problem]]] = {part: [] for part in Side}
        unknown = []
        for problem in problems:
            entry = entries.get(problem.id)
            # What was left out for its text may be used when that has changed.
            if entry is None or (entry.part is Side.LEFT_OUT and entry.task != task_of(problem)):
                unknown.append(problem)
            else:
                parts[entry.part].append((entry.position, problem))
        training, held_out = (
            [problem for _, problem in sorted(parts[part], key=lambda one: one[0])]
            for part in (Side.TRAINING, Side.HELD_OUT)
        )
        return training, held_out, unknown


def split_of_run(
    data: RunData | None, problems: Sequence[Problem], config: Config
) -> tuple[list[Problem], list[Problem]]:
    """Split the problems that a run can use: as it was split before, new ones to train on; or for the first time."""
    if data is None:
        return split(problems, config.data.held_out, config.data.split_seed)
    training, held_out, new = data.split(problems)
    training += split(new, 0, config.data.split_seed)[0] if new else []
    if not training:
        raise DatasetError("no problem that the run may train on is left in the data: all others are held out")
    return training, held_out


def data_of_run(
    before: RunData | None, problems: Sequence[Problem], training: Sequence[Problem], held_out: Sequence[Problem]
) -> RunData:
    """Return what a run is to keep of its data; problems that are no longer there stay known, in case that they come back."""
    parts = {
        problem.id: (part, position)
        for part, some in ((Side.TRAINING, training), (Side.HELD_OUT, held_out))
        for position, problem in enumerate(some)
    }
    entries = [
        Entry(id=problem.id, task=task_of(problem), rest=rest_of(problem), part=part, position=position)
        for problem in problems
        for part, position in [parts.get(problem.id, (Side.LEFT_OUT, 0))]
    ]
    if before:
        known = set(before.match(problems).entries.values())
        entries += [replace(entry, present=False) for entry in before._entries if entry not in known]
    return RunData(entries)


def evaluated_run(config: Config) -> RunFolder | None:
    """Return the run whose split an evaluation goes by: that of the adapter, or the one that the configuration is of."""
    named = config.run.folder / (config.run.name or "run")
    adapter = config.model.adapter
    if adapter is not None:
        folders = [RunFolder(path) for path in adapter.absolute().parents[:2]]
        return next((one for one in folders if one.data.exists() and one.config.exists()), None)
    folder = RunFolder(named)
    keys = ("data.dataset", "data.held_out", "data.split_seed")
    now = dict(zip(keys, (config.data.dataset, config.data.held_out, config.data.split_seed), strict=True))
    return folder if folder.data.exists() and folder.settings(*keys) == now else None


def task_of(problem: Problem) -> str:
    """Return the fingerprint of what a model reads and is graded by."""
    return _digest(problem.statement, problem.signature, problem.tests)


def rest_of(problem: Problem) -> str:
    """Return the fingerprint of what else a row says."""
    return _digest(problem.solution or "", problem.difficulty or "")


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=12).hexdigest()


def _first(names: Iterable[str], number: int) -> str:
    listed = [name for name, _ in zip(names, range(NUM_SHOWN), strict=False)]
    return ", ".join(listed) + (f", and {number - NUM_SHOWN} more" if number > NUM_SHOWN else "")
