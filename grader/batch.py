"""``caravan grade``: grade a file of completions, without Ray, GPU or torch.

Results are appended in input order as soon as all before them are there, so that what is on disk is valid at any time.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO, cast

from cluster.errors import DatasetError, UngradableError
from cluster.types import Grade
from grader.grade import Grader
from grader.parallel import GraderThreads, with_retries
from grader.reward import profile_of
from grader.rows import MalformedRow, Row, parse_row, result_row
from grader.settings import GraderSettings


@dataclass(slots=True)
class GradingSummary:
    """What became of a file's rows."""

    num_graded: int = 0
    malformed: list[str] = field(default_factory=list)  # "line 3: not JSON: ..."
    ungradable: list[str] = field(default_factory=list)  # "line 3: ..."
    interrupted: bool = False
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
    on_start: Callable[[str], None] = lambda _walls: None,
) -> GradingSummary:
    """Grade the rows of a JSONL file into another one.

    Args:
        in_path: rows ``{id, prompt, tests, completion[, finish_reason]}``; ids may repeat, blank lines are skipped.
        out_path: written anew, one row per graded row, in input order.
        settings: limits, walls and reward.
        num_workers: OCaml workers; by default one per core.
        on_progress: called with (rows ended, rows in the file) in the calling thread.
        on_trouble: called with one line about a row that could not be graded.
        on_start: called with one line about the walls around the completions.

    A malformed row is reported and the others are graded. On Ctrl-C what is done is kept and the summary says so.
    Raises DatasetError where a file cannot be read or written, ToolchainError and SandboxError as Grader does.
    """
    if out_path.exists() and in_path.exists() and out_path.samefile(in_path):
        raise DatasetError(f"{out_path} is the input: grading would overwrite it; choose another --out")
    if in_path.is_fifo():
        raise DatasetError(f"{in_path} is a pipe, and the rows are read twice; write them to a file first")
    if in_path.suffix.lower() in (".parquet", ".csv"):
        raise DatasetError(f"{in_path} is to be JSONL, one completion a line; write it as that first")
    total = _count_rows(in_path)
    if total == 0:
        raise DatasetError(f"{in_path} holds no rows; each line is to be one completion")
    min_code_lines = profile_of(settings).min_code_lines
    graders = GraderThreads(settings, num_workers)
    on_start(graders.sandbox.describe())
    summary = GradingSummary()
    try:
        with _opened(in_path, "r") as source, _opened(out_path, "w") as target:
            for done, ended in enumerate(_graded(source, graders, settings.attempts), start=1):
                _record(ended, target, summary, min_code_lines, on_trouble)
                on_progress(done, total)
    except KeyboardInterrupt:
        summary.interrupted = True
    except OSError as error:
        # Closing the file writes as well, so that the whole block is guarded; workers report their own errors otherwise.
        raise DatasetError(f"{in_path} into {out_path}: {error.strerror}; the rows before it are valid") from error
    finally:
        graders.close()
    return summary


def _opened(path: Path, mode: str) -> TextIO:
    try:
        # A lone surrogate or a byte that is no UTF-8 is the completion's matter, not a reason to stop.
        if mode == "w":
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("w", encoding="utf-8", errors="replace")
        with path.open("rb") as file:
            begins = file.read(2)
        # Some editors start a file with a byte order mark; that of UTF-16 says how to read it.
        encoding = "utf-16" if begins in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        if begins == b"\x1f\x8b":
            return cast(TextIO, gzip.open(path, "rt", encoding=encoding, errors="replace"))
        return path.open("r", encoding=encoding, errors="replace")
    except OSError as error:
        raise DatasetError(f"cannot {'read' if mode == 'r' else 'write'} {path}: {error.strerror}") from error


def _count_rows(path: Path) -> int:
    try:
        with _opened(path, "r") as source:
            return sum(1 for line in source if line.strip())
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DatasetError(f"cannot read {path}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Ended:
    """One row that was graded, or why not."""

    line: int
    row: Row | None
    grade: Grade | None
    malformed: str = ""
    ungradable: str = ""


def _graded(source: TextIO, graders: GraderThreads, attempts: int) -> Iterator[_Ended]:
    """Grade the lines of a file and yield them in the file's order."""
    lines = ((line, text) for line, text in enumerate(source, start=1) if text.strip())
    return graders.in_order(lines, lambda grader, numbered: _grade_line(grader, *numbered, attempts))


def _grade_line(grader: Grader, line: int, text: str, attempts: int) -> _Ended:
    try:
        row = parse_row(text, line=line)
    except MalformedRow as error:
        return _Ended(line, None, None, malformed=str(error))
    grade = with_retries(
        attempts, lambda: grader.grade(row.problem, row.completion, row.finish_reason, row.opened_thought)
    )
    if isinstance(grade, UngradableError):
        return _Ended(line, row, None, ungradable=str(grade))
    return _Ended(line, row, grade)


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
