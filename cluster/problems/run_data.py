"""Data of a run: the problems that it was started with, and their split into training and held-out problems.

The run folder keeps it in ``data.jsonl``, one row per problem in the order of the data. Resuming with other data is refused;
with --allow-changed-data the run keeps its split. A problem is recognised by its text, or by its id if its text has changed.
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
from cluster.problems.dataset import quoted_id, split
from cluster.types import Problem

NUM_SHOWN = 5  # ids per kind of change in a message
CHANGED_DATA_FLAG = "--allow-changed-data"


class Side(StrEnum):
    """Side of the split."""

    TRAINING = "training"
    HELD_OUT = "held_out"
    LEFT_OUT = "left_out"  # excluded: the prompt is too long, or no solution can pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One problem as recorded by a run; a row of data.jsonl."""

    id: str
    task: str  # digest of prompt and tests
    rest: str  # digest of solution and difficulty
    part: Side
    position: int  # within the part
    present: bool = True  # the data of the last start contains it


@dataclass(frozen=True, slots=True, kw_only=True)
class DataMatch:
    """Problems of a data set matched with those of a run."""

    entries: Mapping[str, Entry]  # by the problem's present id
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()  # former id, present id
    is_reordered: bool = False

    @property
    def is_same(self) -> bool:
        """Return whether the problems are the same in any order, which has no effect on a run."""
        return not (self.added or self.removed or self.changed or self.renamed)

    def describe(self) -> str:
        """Return the differences with ids, for a message."""
        renamed = [f"{quoted_id(before)} is now {quoted_id(now)}" for before, now in self.renamed]
        kinds = (
            (map(quoted_id, self.removed), len(self.removed), "removed"),
            (map(quoted_id, self.added), len(self.added), "added"),
            (map(quoted_id, self.changed), len(self.changed), "changed"),
            (renamed, len(renamed), "with another id"),
        )
        parts = [f"{number} {kind} ({_first(names, number)})" for names, number, kind in kinds if number]
        return ", ".join([*parts, *(["the others are in another order"] if self.is_reordered else [])])


class RunData:
    """Recorded data of a run."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = tuple(entries)

    @classmethod
    def read(cls, folder: RunFolder) -> "RunData | None":
        """Read the data of a run; None if the run has recorded none (older versions did not). Raises RunFolderError."""
        if not folder.data.exists():
            return None
        try:
            rows = [json.loads(line) for line in folder.data.read_text(encoding="utf-8").split("\n") if line]
            return cls(Entry(**{**row, "part": Side(row["part"])}) for row in rows)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunFolderError(
                f"{folder.data} cannot be read ({error}), and only this file records the held-out problems. Restore it, or "
                "start another run with run.name=NAME"
            ) from None

    def to_jsonl(self) -> str:
        """Return the content of data.jsonl."""
        return "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in self._entries)

    def match(self, problems: Sequence[Problem]) -> DataMatch:
        """Match problems with those of the run: by text and id, then by text alone, then by id alone."""
        tasks = {problem.id: task_digest(problem) for problem in problems}
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

    def _matched(self, problems: Sequence[Problem], tasks: Mapping[str, str], found: Mapping[str, Entry]) -> DataMatch:
        places = {entry: number for number, entry in enumerate(self._entries)}
        order = [places[found[problem.id]] for problem in problems if problem.id in found]
        known = set(found.values())
        changed = []
        for problem in problems:
            entry = found.get(problem.id)
            if entry and entry.present and (entry.task, entry.rest) != (tasks[problem.id], rest_digest(problem)):
                changed.append(problem.id)
        return DataMatch(
            entries=found,
            added=tuple(problem.id for problem in problems if problem.id not in found or not found[problem.id].present),
            removed=tuple(entry.id for entry in self._entries if entry.present and entry not in known),
            changed=tuple(changed),
            renamed=tuple((entry.id, now) for now, entry in found.items() if entry.present and entry.id != now),
            is_reordered=any(before > after for before, after in pairwise(order)),
        )

    def check(self, problems: Sequence[Problem], path: Path, *, allowed: bool) -> str:
        """Return a line about the differences, empty if there are none. Raises RunFolderError if they are not ``allowed``."""
        matched = self.match(problems)
        if matched.is_same:
            return "the rows of the data are in another order, which has no effect" if matched.is_reordered else ""
        if not allowed:
            raise RunFolderError(
                f"{path} was started with other data: {matched.describe()}. Resume with the data that it was started with, start "
                f"another run with run.name=NAME, or accept the change: `caravan train --resume "
                f"{shlex.quote(str(path))} {CHANGED_DATA_FLAG}` keeps the remaining held-out problems and trains on new ones"
            )
        if not self.knows_any(problems):
            raise RunFolderError(
                f"{path} was started with data that has no problem in common: {matched.describe()}. Start another run with "
                "run.name=NAME"
            )
        return f"the data has changed: {matched.describe()}"

    def knows_any(self, problems: Iterable[Problem]) -> bool:
        """Return whether the run has a problem with the text of any of these."""
        tasks = {task_digest(problem) for problem in problems}
        return any(entry.task in tasks for entry in self._entries)

    def split(self, problems: Sequence[Problem]) -> tuple[list[Problem], list[Problem], list[Problem]]:
        """Return training, held-out and unknown problems; the first two in the order of the run."""
        entries = self.match(problems).entries
        parts: dict[Side, list[tuple[int, Problem]]] = {part: [] for part in Side}
        unknown = []
        for problem in problems:
            entry = entries.get(problem.id)
            # An excluded problem may be used after its text has changed.
            if entry is None or (entry.part is Side.LEFT_OUT and entry.task != task_digest(problem)):
                unknown.append(problem)
            else:
                parts[entry.part].append((entry.position, problem))
        training, held_out = (
            [problem for _, problem in sorted(parts[part], key=lambda pair: pair[0])]
            for part in (Side.TRAINING, Side.HELD_OUT)
        )
        return training, held_out, unknown


def split_for_run(
    data: RunData | None, problems: Sequence[Problem], config: Config
) -> tuple[list[Problem], list[Problem]]:
    """Split the usable problems. A resumed run keeps its split and trains on new problems."""
    if data is None:
        return split(problems, config.data.held_out, config.data.split_seed)
    training, held_out, new = data.split(problems)
    training += split(new, 0, config.data.split_seed)[0] if new else []
    if not training:
        raise DatasetError("the data has no training problem left: all its problems are held out")
    return training, held_out


def updated_data(
    before: RunData | None, problems: Sequence[Problem], training: Sequence[Problem], held_out: Sequence[Problem]
) -> RunData:
    """Return the data to record for a run. Removed problems stay recorded in case they return."""
    parts = {
        problem.id: (part, position)
        for part, members in ((Side.TRAINING, training), (Side.HELD_OUT, held_out))
        for position, problem in enumerate(members)
    }
    entries = [
        Entry(id=problem.id, task=task_digest(problem), rest=rest_digest(problem), part=part, position=position)
        for problem in problems
        for part, position in [parts.get(problem.id, (Side.LEFT_OUT, 0))]
    ]
    if before:
        known = set(before.match(problems).entries.values())
        entries += [replace(entry, present=False) for entry in before._entries if entry not in known]
    return RunData(entries)


def run_of_evaluation(config: Config) -> RunFolder | None:
    """Return the run whose split an evaluation uses: that of the adapter or model, or the run that the configuration names."""
    named = config.run.folder / (config.run.name or "run")
    model = Path(config.model.path)
    weights = config.model.adapter or (model if model.is_dir() else None)
    if weights is not None:
        folders = [RunFolder(path) for path in weights.absolute().parents[:2]]
        trained_by = next((folder for folder in folders if folder.data.exists() and folder.config.exists()), None)
        if trained_by or config.model.adapter:
            return trained_by
    folder = RunFolder(named)
    keys = ("data.dataset", "data.held_out", "data.split_seed")
    now = dict(zip(keys, (config.data.dataset, config.data.held_out, config.data.split_seed), strict=True))
    return folder if folder.data.exists() and folder.settings(*keys) == now else None


def task_digest(problem: Problem) -> str:
    """Return a digest of prompt and tests."""
    return _digest(problem.statement, problem.signature, problem.tests)


def rest_digest(problem: Problem) -> str:
    """Return a digest of solution and difficulty."""
    return _digest(problem.solution or "", problem.difficulty or "")


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=12).hexdigest()


def _first(names: Iterable[str], number: int) -> str:
    listed = [name for name, _ in zip(names, range(NUM_SHOWN), strict=False)]
    return ", ".join(listed) + (f", and {number - NUM_SHOWN} more" if number > NUM_SHOWN else "")
