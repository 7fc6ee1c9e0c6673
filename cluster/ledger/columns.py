"""In-memory index of a ledger: a few columns of every completion, texts as integer codes.

A million completions take about 50 MB. Texts, tokens and messages stay in the files; ``reference`` returns their position.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cluster.errors import RunFolderError
from cluster.ledger.files import read_rollouts
from cluster.ledger.rows import rollout_schema

WORDS = ("problem_id", "group_id", "verdict", "fate", "signs")
"""Columns with few distinct texts; ``signs`` are the low-quality flags (column ``degenerate``), joined by commas."""

NUMBERS = ("step", "total_reward", "advantage", "sampling_seconds", "grading_seconds")

STORED = tuple("degenerate" if name == "signs" else name for name in (*WORDS, *NUMBERS))
FILES_AT_A_TIME = 256  # files read before their columns are concatenated
MISSING = -1  # code of a missing text, such as the verdict of an ungraded completion

Kind = TypeVar("Kind", np.int32, np.float32)
Codes = NDArray[np.int32]
Numbers = NDArray[np.float32]
Rows = NDArray[np.int64]  # row numbers, from 0 in the order of the files


@dataclass(frozen=True, slots=True)
class File:
    """A rollout file at the time it was read; a rewritten file of the same name compares unequal."""

    path: Path
    changed_at: int  # nanoseconds
    num_bytes: int

    @classmethod
    def of(cls, entry: "os.DirEntry[str]") -> Self:
        """Return the current state of a directory entry; raises OSError."""
        stat = entry.stat()
        return cls(Path(entry.path), stat.st_mtime_ns, stat.st_size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LedgerColumns:
    """The columns of ``N`` completions. Immutable, so that readers may keep one while others extend it."""

    files: tuple[File, ...] = ()
    starts: Rows = field(default_factory=lambda: np.zeros(1, np.int64))  # [files + 1]: first row of each file, and N
    codes: Mapping[str, Codes] = field(default_factory=lambda: {name: np.zeros(0, np.int32) for name in WORDS})  # [N]
    words: Mapping[str, Sequence[str]] = field(default_factory=lambda: dict.fromkeys(WORDS, ()))  # by code
    numbers: Mapping[str, Numbers] = field(
        default_factory=lambda: {name: np.zeros(0, np.float32) for name in NUMBERS}
    )  # [N], NaN: missing

    @property
    def num_rows(self) -> int:
        """Number of completions."""
        return int(self.starts[-1])

    def code(self, name: str, word: str) -> int:
        """Return the code of a text in a column; MISSING if no completion has it."""
        words = self.words[name]
        return words.index(word) if word in words else MISSING

    def reference(self, row: int) -> tuple[Path, int]:
        """Return the file of a completion and its row in the file."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.files[number].path, int(row - self.starts[number])

    def with_files(self, read: Sequence[tuple[File, Any]]) -> "LedgerColumns":
        """Return the columns with the completions of further files appended, each a ``pyarrow.Table`` of STORED columns."""
        import pyarrow as pa

        ends = self.num_rows + np.cumsum([rows.num_rows for _, rows in read])
        files, starts = (*self.files, *(file for file, _ in read)), np.concatenate([self.starts, ends])
        table = pa.concat_tables([rows for _, rows in read]).combine_chunks()
        if not table.num_rows:
            return replace(self, files=files, starts=starts)
        codes, words = {}, {}
        for name in WORDS:
            added, words[name] = _coded(*_read_words(table, name), self.words[name])
            codes[name] = np.concatenate([self.codes[name], added])
        numbers = {name: np.concatenate([self.numbers[name], _floats(table.column(name))]) for name in NUMBERS}
        return LedgerColumns(
            files=files,
            starts=starts,
            codes=codes,
            words=words,
            numbers=numbers,
        )

    def without_files(self, gone: Iterable[File]) -> "LedgerColumns":
        """Return the columns without the completions of some files, as after a run resumed from an earlier step."""
        excluded = set(gone)
        stays = np.array([file not in excluded for file in self.files], dtype=bool)
        lengths = np.diff(self.starts)
        kept = np.repeat(stays, lengths)
        return LedgerColumns(
            files=tuple(file for file, stay in zip(self.files, stays, strict=True) if stay),
            starts=np.concatenate([[0], np.cumsum(lengths[stays])]).astype(np.int64),
            codes={name: column[kept] for name, column in self.codes.items()},
            words=self.words,
            numbers={name: column[kept] for name, column in self.numbers.items()},
        )


def read_stored(path: Path) -> Any:
    """Return the STORED columns of a rollout file as a ``pyarrow.Table``; raises RunFolderError for any other file."""
    import pyarrow as pa

    table, schema = read_rollouts(path, STORED), rollout_schema()
    try:
        table.validate(full=True)
        return table.select(STORED).cast(pa.schema([schema.field(name) for name in STORED]))
    except (pa.ArrowException, ValueError) as error:
        raise RunFolderError(f"{path} is not a rollout file ({error}); move it away to exclude it") from None


def read_columns(paths: Sequence[Path]) -> LedgerColumns:
    """Return the columns of all these files; raises RunFolderError for one that cannot be read."""
    columns = LedgerColumns()
    for start in range(0, len(paths), FILES_AT_A_TIME):
        some = paths[start : start + FILES_AT_A_TIME]
        columns = columns.with_files([(File(path, 0, 0), read_stored(path)) for path in some])
    return columns


def _read_words(table: Any, name: str) -> tuple[Codes, list[str]]:
    """Return a column of texts as codes, and the text of each code."""
    import pyarrow as pa

    if name == "signs":
        return _read_signs(pa.concat_arrays(table.column("degenerate").chunks))
    encoded = pa.concat_arrays(table.column(name).chunks).dictionary_encode()
    return as_numpy(encoded.indices, np.int32, MISSING), encoded.dictionary.to_pylist()


def _read_signs(lists: Any) -> tuple[Codes, list[str]]:
    """Return lists of flags as codes of joined texts; nearly all of them are empty."""
    codes = as_numpy(lists.value_lengths(), np.int32, MISSING)
    words = {"": 0}
    for row in np.flatnonzero(codes > 0):
        codes[row] = words.setdefault(", ".join(lists[int(row)].as_py()), len(words))
    return codes, list(words)


def _coded(codes: Codes, words: Sequence[str], known: Sequence[str]) -> tuple[Codes, Sequence[str]]:
    """Translate codes of ``words`` to codes of ``known``, extended by new words."""
    all_words = list(known)
    code_of = {word: code for code, word in enumerate(all_words)}
    own = np.full(len(words) + 1, MISSING, np.int32)  # the last entry is for MISSING
    for code, word in enumerate(words):
        if word not in code_of:
            code_of[word] = len(all_words)
            all_words.append(word)
        own[code] = code_of[word]
    return own[codes], all_words


def _floats(column: Any) -> Numbers:
    import pyarrow as pa

    return as_numpy(pa.concat_arrays(column.cast(pa.float32(), safe=False).chunks), np.float32, math.nan)


def as_numpy(array: Any, kind: type[Kind], missing: float) -> NDArray[Kind]:
    """Return a pyarrow array of numbers as numpy, with ``missing`` for nulls.

    pyarrow's own to_numpy() would load pandas, which takes more than a second.
    """
    import pyarrow as pa

    values = np.zeros(len(array), kind)
    if (data := array.buffers()[1]) is not None:
        values[:] = np.frombuffer(data, kind, len(array), array.offset * values.itemsize)
    if array.null_count:
        values[as_numpy(array.is_null().cast(pa.int32()), np.int32, 0) > 0] = missing
    return values
