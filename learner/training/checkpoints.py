"""Checkpoint folders: each appears complete, under its final name, or not at all."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.errors import LearnerError
from learner.training.error_text import describe_error

NAME = re.compile(r"checkpoint-(\d+)")
DRAFT = ".draft"
BEST = "best.json"


def newest_checkpoint(root: Path) -> Path | None:
    """Return the complete checkpoint of the highest step under ``root``, or None."""
    checkpoints = _by_step(root)
    return checkpoints[-1] if checkpoints else None


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def best_step(root: Path) -> int | None:
    """Return the step of the best checkpoint by ``mark_best``; None before the first. Raises LearnerError."""
    best = _best(root)
    return best[0] if best else None


def mark_best(root: Path, step: int, reward: float) -> bool:
    """Record a checkpoint as the best and return True, unless the best one has at least this held-out reward."""
    best = _best(root)
    if best and best[1] >= reward:
        return False
    write_files({BEST: json.dumps({"step": step, "reward": reward}).encode()}, root)
    return True


def forget_best_after(root: Path, step: int) -> None:
    """Forget the best checkpoint if it is of a later step, which will be repeated. Raises LearnerError."""
    best = _best(root)
    if best and best[0] > step:
        (root / BEST).unlink()


def write_checkpoint(root: Path, step: int, write: Callable[[Path], None], *, keep: int) -> Path:
    """Let ``write`` fill a folder that becomes the checkpoint of ``step``; keep the newest ``keep`` and the best one.

    The folder is renamed to its name once its content is on the disk. A process or machine that dies before leaves a draft, which
    is never read, and which the next checkpoint removes. Raises what ``write`` raises; the draft is removed then.
    """
    drafts = root / DRAFT
    shutil.rmtree(drafts, ignore_errors=True)
    drafts.mkdir(parents=True)
    final = root / f"checkpoint-{step}"
    draft = drafts / "new"
    try:
        write(draft)
        _sync(draft)
        if final.exists():  # the step was saved before, with the same state
            final.rename(drafts / "replaced")
        draft.rename(final)
        _sync_folder(root)
    finally:
        shutil.rmtree(drafts, ignore_errors=True)
    best = best_step(root)
    for old in _by_step(root)[:-keep]:
        if step_of(old) != best:
            shutil.rmtree(old, ignore_errors=True)
    return final


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files, by name, into a folder, which is created if missing; each file appears complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        draft = folder / f".{name}"
        draft.write_bytes(content)
        draft.rename(folder / name)


def read_files(folder: Path) -> dict[str, bytes]:
    """Read the files of a folder, by name, without its subfolders."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def write_adapter(files: Mapping[str, bytes], folder: Path) -> None:
    """Write the files of an adapter; raises LearnerError when that fails."""
    try:
        write_files(files, folder)
    except OSError as error:
        raise LearnerError(f"the adapter cannot be written to {folder}: {error.strerror}") from error


def checkpoint_error(root: Path, error: Exception) -> LearnerError:
    """Return the LearnerError for a checkpoint that could not be written."""
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    free_mib = shutil.disk_usage(existing).free / 2**20
    return LearnerError(
        f"the checkpoint cannot be written to {root} ({free_mib:.0f} MiB free): {describe_error(error)}; earlier checkpoints are "
        "intact"
    )


def _best(root: Path) -> tuple[int, float] | None:
    """Step and reward of the best checkpoint."""
    path = root / BEST
    try:
        best = json.loads(path.read_text())
        return int(best["step"]), float(best["reward"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LearnerError(
            f"{path} cannot be read ({describe_error(error)}); delete it to continue; then any checkpoint may be the best"
        ) from None


def _by_step(root: Path) -> list[Path]:
    folders = (path for path in root.glob("checkpoint-*") if path.is_dir())
    steps = {int(match[1]): path for path in folders if (match := NAME.fullmatch(path.name))}
    return [steps[step] for step in sorted(steps)]


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
