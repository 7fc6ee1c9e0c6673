"""Reading of rollout files.

Rollout files are written atomically, so that a running or killed run can be read at any time.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import RunFolderError

UNREADABLE_HINT = "; move it away to exclude it"

LATER_COLUMNS = frozenset({"thought_tokens"})
"""Columns that files of older versions lack; they are read as nulls."""

RowReference = tuple[Path, int]  # rollout file, and row of a completion in it


@contextmanager
def open_rollout_file(
    path: Path,
    columns: Sequence[str],
    *,
    missing_columns_hint: str = ": an older version wrote it",
    unreadable_hint: str = UNREADABLE_HINT,
) -> Iterator[Any]:
    """Open a rollout file as a ``pyarrow.parquet.ParquetFile``, and check that it has the columns but LATER_COLUMNS.

    Raises RunFolderError if columns are missing or if the file cannot be read, also when reading fails during the block. The
    hints end the messages of the two cases.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:  # files of one step are too small for read-ahead
            known = set(file.schema_arrow.names)
            missing = [name for name in columns if name not in known and name not in LATER_COLUMNS]
            if missing:
                raise RunFolderError(f"{path} has no column {', '.join(missing)}{missing_columns_hint}")
            yield file
    except FileNotFoundError:
        raise RunFolderError(f"{path} was removed while it was read, because the run was resumed; try again") from None
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{path} cannot be read as Parquet ({error}){unreadable_hint}") from None


def read_rollouts(path: Path, columns: Sequence[str]) -> Any:
    """Return columns of a rollout file as a ``pyarrow.Table``; raises RunFolderError."""
    import pyarrow as pa

    with open_rollout_file(path, columns) as file:
        table = file.read(columns=list(columns), use_threads=False)
    for name in LATER_COLUMNS.intersection(columns).difference(table.column_names):
        table = table.append_column(name, pa.nulls(table.num_rows))
    return table


def iterate_rows(
    path: Path, columns: Sequence[str], *, missing_columns_hint: str, unreadable_hint: str = UNREADABLE_HINT
) -> Iterator[Mapping[str, Any]]:
    """Yield columns of each row of a rollout file; raises RunFolderError as ``open_rollout_file`` does."""
    nulls = dict.fromkeys(LATER_COLUMNS.intersection(columns))
    with open_rollout_file(
        path, columns, missing_columns_hint=missing_columns_hint, unreadable_hint=unreadable_hint
    ) as file:
        for batch in file.iter_batches(columns=list(columns)):
            yield from (nulls | row for row in batch.to_pylist())


def read_rows(references: Sequence[RowReference], columns: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return columns of the referenced completions, in the order of the references; raises RunFolderError.

    Each file is read once, and only the requested rows become Python objects.
    """
    wanted: dict[Path, list[tuple[int, int]]] = defaultdict(list)  # by file: index in the result, row in the file
    for index, (path, row) in enumerate(references):
        wanted[path].append((index, row))
    found: dict[int, Mapping[str, Any]] = {}
    for path, rows in wanted.items():
        table = read_rollouts(path, columns)
        found |= {index: {name: table.column(name)[row].as_py() for name in columns} for index, row in rows}
    return [found[index] for index in range(len(references))]
