"""Rows written to a file that its name says the format of: ``.jsonl`` or ``.parquet``."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SUFFIXES = (".jsonl", ".parquet")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the file whole or not at all; raises OSError where that cannot be."""
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
                raise OSError(f"a column holds values of several kinds ({error}); write .jsonl") from None
            pq.write_table(table, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """Return what JSON has no form for as a text or a list: bytes, dates, arrays of Parquet files."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return value.tolist() if hasattr(value, "tolist") else str(value)
