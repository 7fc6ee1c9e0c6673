"""Reading a run's rollouts again, file by file.

A step's file appears whole or not at all, so that a run that is going on, or was killed, can be read at any time.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import RunFolderError

Place = tuple[Path, int]  # of a completion: file and row


@contextmanager
def opened_rollouts(
    path: Path,
    columns: Sequence[str],
    *,
    if_older: str = "an older Caravan wrote it",
    if_broken: str = "; move it away to leave it out",
) -> Iterator[Any]:
    """A file of rollouts as a ``pyarrow.parquet.ParquetFile`` that has the columns.

    Raises RunFolderError, with what to do about it, where it has not (``if_older``) or cannot be read (``if_broken``), also while
    it is read in the block.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:  # a step's file is too small for reading ahead to pay
            known = set(file.schema_arrow.names)
            missing = [name for name in columns if name not in known]
            if missing:
                raise RunFolderError(f"{path} does not say {', '.join(missing)}: {if_older}")
            yield file
    except FileNotFoundError:
        raise RunFolderError(f"{path} went away while it was read: the run was started again; try once more") from None
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{path} cannot be read as Parquet ({error}){if_broken}") from None


def read_rollouts(path: Path, columns: Sequence[str]) -> Any:
    """These columns of a file of rollouts, as a ``pyarrow.Table``; raises RunFolderError."""
    with opened_rollouts(path, columns) as file:
        return file.read(columns=list(columns), use_threads=False)


def read_places(places: Sequence[Place], columns: Sequence[str]) -> list[Mapping[str, Any]]:
    """These columns of the completions at these places, in their order; raises RunFolderError.

    Each file is read once, and only what is asked for becomes Python's.
    """
    wanted: dict[Path, list[tuple[int, int]]] = defaultdict(list)  # by file: place in the result, row in the file
    for index, (path, row) in enumerate(places):
        wanted[path].append((index, row))
    found: dict[int, Mapping[str, Any]] = {}
    for path, rows in wanted.items():
        table = read_rollouts(path, columns)
        found |= {index: {name: table.column(name)[row].as_py() for name in columns} for index, row in rows}
    return [found[index] for index in range(len(places))]
