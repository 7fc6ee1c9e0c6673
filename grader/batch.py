"""``caravan grade``: grade a file of completions, without Ray, GPU or torch.

Every worker is a thread with an OCaml compiler and runner of its own; the threads only wait, the work is done there.
Results are appended in input order as soon as all before them are there, so that what is on disk is valid at any time.
"""

import json
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, cast

from cluster.types import DatasetError, Grade, UngradableError
from grader.grade import Grader
from grader.rows import MalformedRow, Row, parse_row, result_row
from grader.settings import GraderSettings

_LOOK_AHEAD_PER_WORKER = 8


@dataclass(slots=True)
class GradingSummary:
    """What became of a file's rows."""

    num_graded: int = 0
    malformed: list[str] = field(default_factory=list)  # "line 3: not JSON: ..."
    ungradable: list[str] = field(default_factory=list)  # "line 3: ..."
    interrupted: bool = False
    walls: str = ""  # one line: what stands around the completions
    rewards: float = 0.0  # their sum
    verdicts: Counter[str] = field(default_factory=Counter)
    num_too_short: int = 0  # rows with fewer code lines than ``min_code_lines``: reward 0, whatever they pass

    @property
    def mean_reward(self) -> float:
        """Mean over the graded rows, 0 where there is none."""
        return self.rewards / self.num_graded if self.num_graded else 0.0

    @property
    def complete(self) -> bool:
        """Whether every row of the file was graded."""
        return not (self.malformed or self.ungradable or self.interrupted)


def grade_file(
    in_path: Path,
    out_path: Path,
    *,
    settings: GraderSettings,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    on_trouble: Callable[[str], None] = lambda _message: None,
) -> GradingSummary:
    """Grade the rows of a JSONL file into another one.

    Args:
        in_path: rows ``{id, prompt, tests, completion[, finish_reason]}``; ids may repeat, blank lines are skipped.
        out_path: written anew, one row per graded row, in input order.
        settings: limits, walls and reward.
        num_workers: OCaml workers; by default one per core.
        on_progress: called with (rows ended, rows in the file) in the calling thread.
        on_trouble: called with one line about a row that could not be graded.

    A malformed row is reported and the others are graded. On Ctrl-C what is done is kept and the summary says so.
    Raises DatasetError where a file cannot be read or written, ToolchainError and SandboxError as Grader does.
    """
    if out_path.exists() and in_path.exists() and out_path.samefile(in_path):
        raise DatasetError(f"{out_path} is the input: grading would overwrite it; choose another --out")
    if in_path.is_fifo():
        raise DatasetError(f"{in_path} is a pipe, and the rows are read twice; write them to a file first")
    total = _count_rows(in_path)
    if total == 0:
        raise DatasetError(f"{in_path} holds no rows; each line is to be one completion")
    workers = _Workers(settings, num_workers or os.cpu_count() or 1)
    summary = GradingSummary(walls=workers.walls)
    try:
        with _opened(in_path, "r") as source, _opened(out_path, "w") as target:
            for done, ended in enumerate(_in_order(source, workers), start=1):
                _record(ended, target, summary, settings.min_code_lines, on_trouble)
                on_progress(done, total)
    except KeyboardInterrupt:
        summary.interrupted = True
    except OSError as error:
        # Closing the file writes as well, so that the whole block is guarded; workers report their own errors otherwise.
        raise DatasetError(f"{in_path} into {out_path}: {error.strerror}; the rows before it are valid") from error
    finally:
        workers.close()
    return summary


def _opened(path: Path, mode: str) -> TextIO:
    try:
        if mode == "w":
            path.parent.mkdir(parents=True, exist_ok=True)
        # A lone surrogate or a byte that is no UTF-8 is the completion's matter, not a reason to stop.
        encoding = "utf-8-sig" if mode == "r" else "utf-8"  # some editors start a file with a byte order mark
        return cast(TextIO, path.open(mode, encoding=encoding, errors="replace"))
    except OSError as error:
        raise DatasetError(f"cannot {'read' if mode == 'r' else 'write'} {path}: {error.strerror}") from error


def _count_rows(path: Path) -> int:
    with _opened(path, "r") as source:
        return sum(1 for line in source if line.strip())


@dataclass(frozen=True, slots=True)
class _Ended:
    """One row that was graded, or why not."""

    line: int
    row: Row | None
    grade: Grade | None
    malformed: str = ""
    ungradable: str = ""


class _Workers:
    """Threads with a grader each."""

    def __init__(self, settings: GraderSettings, num_workers: int) -> None:
        # The first one is made here, so that a missing compiler is one message and not one per row.
        self._graders = [Grader(settings)]
        self._graders += [Grader(settings) for _ in range(num_workers - 1)]
        self.walls = self._graders[0].walls.describe()
        self._idle = deque(self._graders)
        self._lock = threading.Lock()
        self._attempts = settings.attempts
        self._pool = ThreadPoolExecutor(max_workers=num_workers, thread_name_prefix="grader")
        self.look_ahead = num_workers * _LOOK_AHEAD_PER_WORKER

    def submit(self, line: int, text: str) -> "Future[_Ended]":
        return self._pool.submit(self._work, line, text)

    def _work(self, line: int, text: str) -> _Ended:
        try:
            row = parse_row(text, line=line)
        except MalformedRow as error:
            return _Ended(line, None, None, malformed=str(error))
        with self._lock:
            grader = self._idle.popleft()
        try:
            return self._graded(grader, row)
        finally:
            with self._lock:
                self._idle.append(grader)

    def _graded(self, grader: Grader, row: Row) -> _Ended:
        reason = ""
        for _ in range(self._attempts):
            try:
                return _Ended(row.line, row, grader.grade(row.problem, row.completion, row.finish_reason))
            except UngradableError as error:
                reason = str(error)
        return _Ended(row.line, row, None, ungradable=reason)

    def close(self) -> None:
        """End every OCaml process first, so that no thread has anything left to wait for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for grader in self._graders:
            grader.close()
        self._pool.shutdown(wait=True)
        for grader in self._graders:
            grader.close()


def _in_order(source: TextIO, workers: _Workers) -> Iterator[_Ended]:
    """Grade the lines of a file, a bounded number of them ahead, and yield them in the file's order."""
    pending: deque[Future[_Ended]] = deque()
    for line, text in enumerate(source, start=1):
        if not text.strip():
            continue
        pending.append(workers.submit(line, text))
        if len(pending) >= workers.look_ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _record(
    ended: _Ended, target: TextIO, summary: GradingSummary, min_code_lines: int, on_trouble: Callable[[str], None]
) -> None:
    if ended.row is not None and ended.grade is not None:
        target.write(json.dumps(result_row(ended.row, ended.grade), ensure_ascii=True) + "\n")
        target.flush()
        summary.num_graded += 1
        summary.rewards += ended.grade.reward
        summary.verdicts[str(ended.grade.facts.verdict)] += 1
        summary.num_too_short += ended.grade.facts.num_code_lines < min_code_lines
        return
    bucket = summary.malformed if ended.malformed else summary.ungradable
    message = f"line {ended.line}: {ended.malformed or ended.ungradable}"
    bucket.append(message)
    on_trouble(message)
