"""``caravan grade``: grade a file of completions, without Ray, GPU or torch.

Each result is appended as soon as all earlier ones are written, so that the file is valid at any time.
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

NO_NUM_TOKENS = (
    "num_tokens is missing: the price of the completion's thought (thought_tokens of --reward) depends on it"
)


@dataclass(slots=True)
class GradingSummary:
    """Counts and errors of one file."""

    num_graded: int = 0
    malformed: list[str] = field(default_factory=list)  # "line 3: not JSON: ..."
    ungradable: list[str] = field(default_factory=list)  # "line 3: ..."
    interrupted: bool = False
    total_reward: float = 0.0
    verdicts: Counter[str] = field(default_factory=Counter)
    num_too_short: int = 0  # rows with fewer code lines than ``min_code_lines``: reward 0

    @property
    def mean_reward(self) -> float:
        """Mean over the graded rows; 0 without any."""
        return self.total_reward / self.num_graded if self.num_graded else 0.0

    @property
    def complete(self) -> bool:
        """True if every row of the file was graded."""
        return not (self.malformed or self.ungradable or self.interrupted)


def grade_file(
    in_path: Path,
    out_path: Path,
    *,
    settings: GraderSettings,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    on_error: Callable[[str], None] = lambda _message: None,
    on_start: Callable[[str], None] = lambda _sandbox: None,
) -> GradingSummary:
    """Grade the rows of a JSONL file and write the results to another one.

    Args:
        in_path: rows ``{id, prompt, tests, completion[, finish_reason][, ...]}``; ids may repeat, blank lines are skipped.
        out_path: overwritten with one row per graded row, in input order.
        settings: limits, sandbox and reward.
        num_workers: OCaml workers; by default one per core.
        on_progress: called with (rows done, rows in the file) in the calling thread.
        on_error: called with one line about a row that could not be graded.
        on_start: called with one line about the sandbox.

    A malformed row is reported and the others are graded. On Ctrl-C the rows graded so far are kept and the summary is marked
    as interrupted. Raises DatasetError if a file cannot be read or written, ToolchainError and SandboxError as Grader does.
    """
    if out_path.exists() and in_path.exists() and out_path.samefile(in_path):
        raise DatasetError(f"{out_path} is the input: grading would overwrite it; choose another --out")
    if in_path.is_fifo():
        raise DatasetError(f"{in_path} is a pipe, but its rows are read twice: write them to a file first")
    if in_path.suffix.lower() in (".parquet", ".csv"):
        raise DatasetError(f"{in_path} is not JSONL: convert it to one JSON object per line first")
    total = _count_rows(in_path)
    if total == 0:
        raise DatasetError(f"{in_path} holds no rows: each line must be one completion")
    profile = profile_of(settings)
    graders = GraderThreads(settings, num_workers)
    on_start(graders.sandbox.describe())
    summary = GradingSummary()
    try:
        with _opened(in_path, "r") as source, _opened(out_path, "w") as target:
            graded = _graded(source, graders, settings.attempts, profile.depends_on_thoughts)
            for done, outcome in enumerate(graded, start=1):
                _record(outcome, target, summary, profile.min_code_lines, on_error)
                on_progress(done, total)
    except KeyboardInterrupt:
        summary.interrupted = True
    except OSError as error:
        # Closing the file can fail too, so the whole block is guarded; workers report their errors in another way.
        raise DatasetError(
            f"cannot grade {in_path} into {out_path}: {error.strerror}; the rows written so far are valid"
        ) from error
    finally:
        graders.close()
    return summary


def _opened(path: Path, mode: str) -> TextIO:
    try:
        # A lone surrogate or an invalid byte affects only its own completion.
        if mode == "w":
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("w", encoding="utf-8", errors="replace")
        with path.open("rb") as file:
            first_bytes = file.read(2)
        # Some editors start a file with a byte order mark, which in UTF-16 gives the encoding.
        encoding = "utf-16" if first_bytes in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        if first_bytes == b"\x1f\x8b":
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
class _RowOutcome:
    """The grade of one row, or the reason why it has none."""

    line: int
    row: Row | None
    grade: Grade | None
    malformed: str = ""
    ungradable: str = ""


def _graded(source: TextIO, graders: GraderThreads, attempts: int, needs_tokens: bool) -> Iterator[_RowOutcome]:
    """Grade the lines of a file and yield them in the file's order.

    ``needs_tokens``: the reward depends on the number of thought tokens, unknown for a row without ``num_tokens``.
    """
    lines = ((line, text) for line, text in enumerate(source, start=1) if text.strip())
    return graders.in_order(lines, lambda grader, numbered: _grade_line(grader, *numbered, attempts, needs_tokens))


def _grade_line(grader: Grader, line: int, text: str, attempts: int, needs_tokens: bool) -> _RowOutcome:
    try:
        row = parse_row(text, line=line)
    except MalformedRow as error:
        return _RowOutcome(line, None, None, malformed=str(error))
    grade = with_retries(
        attempts,
        lambda: grader.grade(row.problem, row.completion, row.finish_reason, row.opened_thought, row.token_ends),
    )
    if isinstance(grade, UngradableError):
        return _RowOutcome(line, row, None, ungradable=str(grade))
    if needs_tokens and grade.facts.num_thought_tokens is None:
        return _RowOutcome(line, None, None, malformed=NO_NUM_TOKENS)
    return _RowOutcome(line, row, grade)


def _record(
    outcome: _RowOutcome, target: TextIO, summary: GradingSummary, min_code_lines: int, on_error: Callable[[str], None]
) -> None:
    if outcome.row is not None and outcome.grade is not None:
        target.write(json.dumps(result_row(outcome.row, outcome.grade), ensure_ascii=True) + "\n")
        target.flush()
        summary.num_graded += 1
        summary.total_reward += outcome.grade.reward
        summary.verdicts[str(outcome.grade.facts.verdict)] += 1
        summary.num_too_short += outcome.grade.facts.num_code_lines < min_code_lines
        return
    errors = summary.malformed if outcome.malformed else summary.ungradable
    message = f"line {outcome.line}: {outcome.malformed or outcome.ungradable}"
    errors.append(message)
    on_error(message)
