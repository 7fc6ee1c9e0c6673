"""Writing of rows to ``.jsonl`` or ``.parquet``, by the suffix of the file."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".parquet")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the file atomically; raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix.lower() == ".jsonl":
            temporary.write_text(
                "".join(json.dumps(row, ensure_ascii=False, default=plain) + "\n" for row in rows), encoding="utf-8"
            )
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                table = pa.Table.from_pylist([dict(row) for row in rows])
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:  # 1 and "a" in one column
                raise OSError(f"a column has values of several types ({error}); write .jsonl instead") from None
            pq.write_table(table, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Return a value that JSON cannot hold as a text or a list: bytes, dates, arrays of Parquet files."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.tolist() if hasattr(value, "tolist") else str(value)
