"""Restoration of a run directory after a start that fails before it has results."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

RESULTS = (
    "metrics.jsonl",
    "evaluation.jsonl",
    "summary.json",
    "reward_logs/*.jsonl",
    "rollouts/*.parquet",
    "checkpoints/checkpoint-*",
    "diverged/*",
)
"""Results of a run. A directory without any of them has nothing to resume from and nothing to lose."""

REPLACED = ("config.yaml", "evaluation.jsonl", "data.jsonl", "base_gaps.json")
"""Files that a start changes before it has results."""


@contextmanager
def restored_on_refusal(run: Path, made: Sequence[Path]) -> Iterator[None]:
    """Undo the block's changes to the directory if the block raises before the run has new results.

    ``made``: files and directories that were created for the block, inner ones first; they are removed if they are empty.
    """
    entries = {entry.name for entry in run.iterdir()}
    texts = {name: (run / name).read_bytes() for name in REPLACED if (run / name).is_file()}
    before = _results(run)
    try:
        yield
    except BaseException:
        if _results(run).items() <= before.items():
            with suppress(OSError):  # writing here may be what failed
                _undo(run, entries, texts)
                for path in made:
                    _remove_empty(path)
        raise


def _results(run: Path) -> dict[Path, tuple[int, int]]:
    """Size and modification time of each file of results."""
    found = (path for pattern in RESULTS for path in run.glob(pattern))
    return {path: (stat.st_size, stat.st_mtime_ns) for path in found for stat in [path.stat()]}


def _undo(run: Path, entries: set[str], texts: Mapping[str, bytes]) -> None:
    for entry in run.iterdir():
        if entry.name in entries:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    for name, text in texts.items():
        if not (run / name).is_file() or (run / name).read_bytes() != text:
            (run / name).write_bytes(text)


def _remove_empty(path: Path) -> None:
    if not path.is_dir():
        path.unlink()
    elif not any(path.iterdir()):
        path.rmdir()
