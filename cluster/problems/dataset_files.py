"""Readers of CSV, JSON, Parquet and Arrow files. A bad row does not affect the others.

A row is a mapping, or a text with the reason why it cannot be read. DatasetError means that a whole file cannot be read.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import DatasetError

Row = Mapping[str, Any] | str  # column -> value, or the reason why the row cannot be read

_COMPRESSED: Mapping[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
}
_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz"}
_SEPARATORS = ",;\t|"
_ROW_LISTS = ("data", "rows", "problems", "examples", "train")  # keys of a JSON object that may hold its rows
_SHOWN = 60  # characters of a name or a cell in a message


def ending_of(path: str | Path) -> str:
    """Return the file type by name, with its compression: ``.csv``, ``.jsonl.gz``; empty for other names."""
    name = Path(path).name.lower()
    packed = next((ending for ending in _COMPRESSED if name.endswith(ending)), "")
    kind = next((ending for ending in _READERS if name.removesuffix(packed).endswith(ending)), "")
    return "" if not kind or (packed and kind in _WHOLE_FILES) else f"{kind}{packed}"


def endings() -> str:
    """Return the readable file types, for a message."""
    return f"{', '.join(_READERS)} (texts also with {', '.join(_COMPRESSED)})"


def read_file(path: Path, wanted: Collection[str] = ()) -> list[Row]:
    """Read the rows of a file. ``wanted`` are the column names by which the separator of a CSV file is recognised."""
    kind = ending_of(path)
    packed = next((ending for ending in _COMPRESSED if kind.endswith(ending)), "")
    reader = _READERS[kind.removesuffix(packed)]
    try:
        return reader(path, wanted)
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip().splitlines()[0]
        raise DatasetError(f"{path} cannot be read: {reason}") from None


def _read_csv(path: Path, wanted: Collection[str]) -> list[Row]:
    csv.field_size_limit(1 << 24)  # the default refuses fields over 128 KiB
    text = _text(path)
    start = text.lstrip("\r\n")
    separator = ""
    if start[:4].lower() == "sep=" and start[4:5] and start[5:6] in "\r\n":  # written by Excel
        separator, text = start[4], start[5:].lstrip("\r\n")
    separator = separator or _separator(text, wanted)
    rows = _records(text, separator)
    header = next(rows, None)
    if header is None:
        return []
    if isinstance(header, str):
        raise ValueError(f"its first line, which should name the columns, is malformed: {header}")
    names = [name.strip() for name in header]
    while names and not names[-1]:
        names.pop()
    repeated = [name for name in dict.fromkeys(names) if name in wanted and names.count(name) > 1]
    if repeated:
        raise ValueError(f"it has {names.count(repeated[0])} columns named {repeated[0]!r}: keep only one")
    return [cells if isinstance(cells, str) else _named(names, cells) for cells in rows]


def _named(names: Sequence[str], cells: Sequence[str]) -> Row:
    if any(cell.strip() for cell in cells[len(names) :]):
        return f"{len(cells)} cells, but the first line names {len(names)} columns: does a cell contain an unquoted separator?"
    return dict(zip(names, [*cells, *[None] * (len(names) - len(cells))], strict=False))


def _separator(text: str, wanted: Collection[str]) -> str:
    """Return the separator under which the first line has the most wanted columns; among equals, the most columns."""

    def names(separator: str) -> tuple[int, int]:
        header = next(_records(text, separator), [])
        cells = header if isinstance(header, list) else text.partition("\n")[0].split(separator)
        found = [name.strip() for name in cells]
        return len(set(found) & set(wanted)), len(found)

    return max(_SEPARATORS, key=names)


def _records(text: str, separator: str) -> Iterator[list[str] | str]:
    """Yield the records of a CSV text without empty lines; for a record with malformed quoting, a text with the reason."""
    spaced = f"{separator} " in text.partition("\n")[0]  # "id, prompt": a quote may follow the space
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=spaced)
    while True:
        begins = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            last = reader.line_num
            if "unexpected end of data" in str(error):
                yield f"lines {begins} to {last}: a quote that opens there is never closed"
                return
            yield f"{f'line {last}' if last == begins else f'lines {begins} to {last}'}: {error}"
            continue
        if any(cell.strip() for cell in cells):  # spreadsheets append rows that contain only separators
            yield cells


def _read_jsonl(path: Path, _wanted: Collection[str]) -> list[Row]:
    text = _text(path)
    if text.lstrip()[:1] == "[" and isinstance(whole := _json(text), list):
        return _objects(whole)  # JSON with another file name
    return _json_lines(text)


def _json_lines(text: str) -> list[Row]:
    rows: list[Row] = []
    start, spanned = 0, 0  # offsets of the line, and of the end of an object over several lines
    # Only "\n" ends a line of JSONL; str.splitlines also splits at U+2028, which strings may contain.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and start >= spanned:
            try:
                rows += _objects([json.loads(line)])
            except (ValueError, RecursionError) as error:  # ValueError: not JSON, or a number of thousands of digits
                if spanned := _end_of_object(text, start + len(line) - len(line.lstrip())):
                    last = number + text.count("\n", start, spanned)
                    rows.append(
                        f"lines {number} to {last} are one JSON object: write each object on one line (`jq -c . FILE`)"
                    )
                else:
                    rows.append(f"not JSON: {error}")
        start += len(line) + 1
    return rows


def _end_of_object(text: str, start: int) -> int:
    """Return the offset of the end of the JSON object at ``start``; 0 if there is none."""
    if text[start : start + 1] != "{":
        return 0
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return 0


def _read_json(path: Path, wanted: Collection[str]) -> list[Row]:
    text = _text(path)
    whole = _json(text)
    if isinstance(whole, list):
        return _objects(whole)
    if isinstance(whole, dict):
        return _rows_in(whole, wanted)
    lines = _json_lines(text)
    if isinstance(whole, ValueError) and not any(isinstance(row, dict) for row in lines):
        raise ValueError(f"not JSON: {whole}")
    return lines  # JSON lines with another file name


def _rows_in(whole: dict[str, Any], wanted: Collection[str]) -> list[Row]:
    """Return the rows of a JSON object: the list under a key, its columns, or the object itself as one row."""
    named = [key for key in _ROW_LISTS if isinstance(whole.get(key), list)]
    # {"train": [ROW, ...], "test": [...]} are splits, although a column may be called test.
    if named and whole.keys() & set(wanted) <= {"test"}:
        return _objects(whole[named[0]])
    columns = list(whole.values())
    if columns and all(isinstance(column, dict) for column in columns) and whole.keys() & set(wanted):
        index = list(columns[0])  # pandas: {"id": {"0": ...}}
        if any(column.keys() != columns[0].keys() for column in columns):
            raise ValueError("its columns have different row numbers")
        columns = [[column[number] for number in index] for column in columns]
    if columns and all(isinstance(column, list) for column in columns) and whole.keys() & set(wanted):
        if len({len(column) for column in columns}) == 1 and not isinstance(columns[0][:1], dict):
            return [dict(zip(whole, cells, strict=True)) for cells in zip(*columns, strict=True)]
        raise ValueError("its columns are of different lengths")
    if whole.keys() & set(wanted):
        return [whole]
    keys = ", ".join(key[:_SHOWN] for key in list(whole)[:10])
    raise ValueError(f"it is an object without rows (keys {keys}): use a list of rows, or {{'data': [...]}}")


def _objects(values: list[Any]) -> list[Row]:
    return [value if isinstance(value, dict) else f"not an object but {type(value).__name__}" for value in values]


def _json(text: str) -> Any:
    """Return the value of a JSON text, or the error if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("brackets are nested too deeply")


def _read_parquet(path: Path, _wanted: Collection[str]) -> list[Row]:
    import pyarrow.parquet as pq

    # read_table reads "a=b" in a path as a partition column.
    with pq.ParquetFile(path) as file:
        return list(file.read().to_pylist())


def _read_arrow(path: Path, _wanted: Collection[str]) -> list[Row]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:  # a stream, as written by the datasets library
            table = pa.ipc.open_stream(source).read_all()
        return list(table.to_pylist())


def _text(path: Path) -> str:
    """Return a file's text, decompressed: UTF-8, or UTF-16 with a byte order mark."""
    data = path.read_bytes()
    packed = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")
    if packed:  # its name may lack the ending
        data = _COMPRESSED[packed](data)
    elif any(path.name.lower().endswith(ending) for ending in _COMPRESSED):
        raise ValueError(f"its name ends in {path.suffix}, but its content is not compressed")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16")
    if b"\0" in data[:1000]:
        raise ValueError("it contains NUL bytes: is it binary, or UTF-16 without a byte order mark? Save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} contains the byte 0x{data[error.start]:02x}, which is not UTF-8: save the file as UTF-8 "
            "(iconv -f latin1 -t utf-8 FILE, if it is Latin-1)"
        ) from None


_READERS: Mapping[str, Callable[[Path, Collection[str]], list[Row]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
_WHOLE_FILES = (".parquet", ".arrow")  # compressed internally
