"""A start that is refused leaves the folder of its run as it was: none where there was none."""

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
"""What a run has produced once it has sampled anything; with none of it there is nothing to go on from, and nothing to lose."""

REPLACED = ("config.yaml", "evaluation.jsonl", "data.jsonl")
"""Files that a start changes before it has results."""


@contextmanager
def left_as_it_was(run: Path, made: Sequence[Path]) -> Iterator[None]:
    """Where the block raises before the run in the folder has new results, undo what the block has changed in it.

    ``made`` are folders and files, inner ones first, that were made for the block; they go then, too, where they are empty.
    """
    entries = {entry.name for entry in run.iterdir()}
    texts = {name: (run / name).read_bytes() for name in REPLACED if (run / name).is_file()}
    before = _results(run)
    try:
        yield
    except BaseException:
        if _results(run).items() <= before.items():
            with suppress(OSError):  # what was refused may be to write here at all
                _undo(run, entries, texts)
                for path in made:
                    _remove_empty(path)
        raise


def _results(run: Path) -> dict[Path, tuple[int, int]]:
    """The files of results, each with what changes where it is written to."""
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
