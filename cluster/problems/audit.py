"""``caravan audit``: audit every row of a data set, without Ray, GPU or torch. grader/audit.py holds the checks."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cluster.config.dataset_part import WHOLE, Part
from cluster.errors import DatasetError, UngradableError
from cluster.ledger.row_files import plain
from cluster.problems.dataset import SeenIds, dataset_rows, load_problems, raw_id, read_row
from cluster.problems.dataset_files import Row
from cluster.types import Problem
from grader.audit import ProblemAudit, audit_problem
from grader.duplicates import DuplicateIndex, fingerprint
from grader.fields import IncompleteRow, is_missing
from grader.grade import Grader
from grader.parallel import GraderThreads, with_retries
from grader.settings import GraderSettings

PARQUET_BATCH = 500  # rows written at once
MALFORMED = "malformed_row"
NUM_SHOWN = 3  # malformed rows of which the reason is printed


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedRow:
    """Audit result of one row of a data set."""

    id: Any  # as in the data; None if the row has none
    causes: tuple[str, ...]  # reasons why no solution can pass, each "code: message"
    warnings: tuple[str, ...]  # each "code: message"
    ungradable: str = ""  # the failure of the machine, if it could not audit the row

    @property
    def solvable(self) -> bool | None:
        """Return whether some solution may pass; None if the machine could not audit the row."""
        return None if self.ungradable else not self.causes

    def as_json(self) -> dict[str, Any]:
        """Return the row of the output file."""
        return {
            "id": self.id,
            "passable": self.solvable,
            "causes": list(self.causes),
            "warnings": list(self.warnings),
        }


@dataclass(slots=True)
class AuditSummary:
    """Counts of an audit, by code of cause and warning."""

    num_rows: int = 0
    num_audited: int = 0
    num_unsolvable: int = 0
    num_ungradable: int = 0
    causes: Counter[str] = field(default_factory=Counter)  # code -> number of rows
    warnings: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # code -> id (or number) of the first row with it
    malformed_rows: list[str] = field(default_factory=list)  # row number and reason of the first NUM_SHOWN ones
    interrupted: bool = False

    def add(self, row: AuditedRow) -> None:
        """Add a row to the counts."""
        self.num_audited += 1
        self.num_unsolvable += row.solvable is False
        self.num_ungradable += row.solvable is None
        self.malformed_rows += [text.partition(": ")[2] for text in row.causes if code_of(text) == MALFORMED]
        del self.malformed_rows[NUM_SHOWN:]
        for counter, texts in ((self.causes, row.causes), (self.warnings, row.warnings)):
            for code in {code_of(text) for text in texts}:
                counter[code] += 1
                self.examples.setdefault(code, f"row {self.num_audited}" if row.id is None else str(row.id))


class Writer(Protocol):
    """Writes audited rows to a file, which is complete after ``close``."""

    def write(self, row: AuditedRow) -> None:
        """Write one row."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


def code_of(text: str) -> str:
    """Return the code of a cause or a warning."""
    return text.partition(":")[0]


def audit_dataset(
    dataset: str,
    out: Path | None,
    *,
    settings: GraderSettings,
    part: Part = WHOLE,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> AuditSummary:
    """Audit ``builtin``, a local file or folder, or a data set of the Hugging Face hub.

    Args:
        dataset: name or path of the data set.
        out: output file, ``.jsonl`` or ``.parquet``, overwritten: one row per row of the data set, in its order.
        settings: limits and sandbox of the graders.
        part: split, configuration and revision of the data set.
        num_workers: OCaml workers; one per core by default.
        on_progress: called in the calling thread with the numbers of audited rows and of all rows.

    Ctrl-C keeps the rows written so far. Raises DatasetError if the data cannot be read or ``out`` cannot be written.
    """
    if out and Path(dataset).exists() and out.exists() and out.samefile(dataset):
        raise DatasetError(f"{out} is the data set itself and would be overwritten; choose another --out")
    rows = _rows(dataset, part)
    if not rows:
        raise DatasetError(f"{dataset} is empty: no rows to audit")
    summary = AuditSummary(num_rows=len(rows))
    graders = GraderThreads(settings, num_workers)
    try:
        writer = _writer(out)
        try:
            for done, row in enumerate(_audited(rows, graders, settings.attempts), start=1):
                writer.write(row)
                summary.add(row)
                on_progress(done, len(rows))
        except KeyboardInterrupt:
            summary.interrupted = True
        finally:
            writer.close()
    except OSError as error:
        raise DatasetError(
            f"cannot write {out}: {error.strerror or error}; the rows written so far are valid"
        ) from error
    finally:
        graders.close()
    return summary


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A row to audit: its problem, or the reason why it is not a problem."""

    id: Any
    problem: Problem | None
    cause: str = ""
    warnings: tuple[str, ...] = ()


def _rows(dataset: str, part: Part) -> list[_Entry]:
    if dataset == "builtin":
        return [_Entry(id=problem.id, problem=problem) for problem in load_problems("builtin", part).problems]
    seen = SeenIds()
    return [_entry(number, row, seen) for number, row in enumerate(dataset_rows(dataset, part), start=1)]


def _entry(number: int, row: Row, seen: SeenIds) -> _Entry:
    if isinstance(row, str):
        return _Entry(id=None, problem=None, cause=f"{MALFORMED}: row {number}: {row}")
    given = raw_id(row)
    if isinstance(given, bytes) or is_missing(given):  # bytes of a Parquet file; NaN, which JSON lacks
        given = None if is_missing(given) else plain(given)
    try:
        problem = read_row(row)
    except ValueError as error:
        code = error.code if isinstance(error, IncompleteRow) else MALFORMED
        return _Entry(id=given, problem=None, cause=f"{code}: row {number}: {error}")
    repeated = seen.add(problem, number)
    warnings = (
        (f"duplicate_id: {repeated.removeprefix('duplicate id ')}; training takes the first only",) if repeated else ()
    )
    return _Entry(id=given, problem=problem, warnings=warnings)


def _audited(entries: Sequence[_Entry], graders: GraderThreads, attempts: int) -> Iterator[AuditedRow]:
    def work(grader: Grader, entry: _Entry) -> tuple[_Entry, ProblemAudit | UngradableError]:
        problem = entry.problem
        if problem is None:
            return entry, ProblemAudit(causes=(entry.cause,), warnings=())
        return entry, with_retries(attempts, lambda: audit_problem(grader, problem))

    seen = DuplicateIndex()
    for entry, audit in graders.in_order(entries, work):
        if isinstance(audit, UngradableError):
            yield AuditedRow(id=entry.id, causes=(), warnings=(f"not_audited: {audit}",), ungradable=str(audit))
            continue
        near = seen.add(fingerprint(entry.problem, audit.asserts)) if entry.problem else ""
        warnings = (*entry.warnings, *audit.warnings, *((near,) if near else ()))
        yield AuditedRow(id=entry.id, causes=audit.causes, warnings=warnings)


def _writer(out: Path | None) -> Writer:
    if out is None:
        return _NullWriter()
    if out.suffix.lower() not in (".jsonl", ".parquet"):
        raise DatasetError(f"--out {out}: the name must end in .jsonl or .parquet")
    out.parent.mkdir(parents=True, exist_ok=True)
    return _JsonlWriter(out) if out.suffix.lower() == ".jsonl" else _ParquetWriter(out)


class _NullWriter:
    def write(self, row: AuditedRow) -> None: ...

    def close(self) -> None: ...


class _JsonlWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, row: AuditedRow) -> None:
        self._file.write(json.dumps(row.as_json(), ensure_ascii=True, default=plain) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class _ParquetWriter:
    """Writes ids as texts, because a column has one type."""

    def __init__(self, path: Path) -> None:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        texts = arrow.list_(arrow.string())
        self._schema = arrow.schema(
            {"id": arrow.string(), "passable": arrow.bool_(), "causes": texts, "warnings": texts}
        )
        self._table = arrow.Table.from_pylist
        self._file = parquet.ParquetWriter(path, self._schema)
        self._rows: list[dict[str, Any]] = []

    def write(self, row: AuditedRow) -> None:
        self._rows.append({**row.as_json(), "id": None if row.id is None else str(plain(row.id))})
        if len(self._rows) >= PARQUET_BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(self._table(self._rows, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        self._flush()
        self._file.close()
