from pathlib import Path

import pytest

from cluster.errors import LearnerError
from learner.training.checkpoints import (
    best_step,
    forget_best_after,
    mark_best,
    newest_checkpoint,
    read_files,
    step_of,
    write_checkpoint,
    write_files,
)


def save(root: Path, step: int, *, keep: int = 3, content: bytes = b"weights") -> Path:
    return write_checkpoint(root, step, lambda folder: write_files({"weights": content}, folder), keep=keep)


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "missing") is None
    for step in (2, 10, 9):
        save(tmp_path, step)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert step_of(newest) == 10
    assert (newest / "weights").read_bytes() == b"weights"


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-3", "checkpoint-4"]


def test_the_best_checkpoint_is_kept_next_to_the_newest(tmp_path: Path) -> None:
    assert best_step(tmp_path) is None
    for step, reward in ((1, 0.3), (2, 0.6), (3, 0.5), (4, 0.6)):
        save(tmp_path, step, keep=1)
        assert mark_best(tmp_path, step, reward) == (step < 3)
    assert best_step(tmp_path) == 2
    save(tmp_path, 5, keep=1)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-5"]
    assert mark_best(tmp_path, 5, 0.7)
    save(tmp_path, 6, keep=1)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]


def test_the_best_checkpoint_is_forgotten_if_its_step_is_repeated(tmp_path: Path) -> None:
    forget_best_after(tmp_path, 0)
    for step in (10, 20):
        save(tmp_path, step)
    mark_best(tmp_path, 20, 0.5)
    forget_best_after(tmp_path, 20)
    assert best_step(tmp_path) == 20
    forget_best_after(tmp_path, 10)
    assert best_step(tmp_path) is None
    assert mark_best(tmp_path, 20, 0.4)


def test_a_failed_write_leaves_only_the_earlier_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, 1)

    def fill_the_disk(folder: Path) -> None:
        write_files({"weights": b"half"}, folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_checkpoint(tmp_path, 2, fill_the_disk, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_draft_of_a_killed_process_is_ignored(tmp_path: Path) -> None:
    save(tmp_path, 1)
    write_files({"weights": b"half"}, tmp_path / ".draft" / "checkpoint-2")  # as left by a killed process
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    assert newest_checkpoint(tmp_path / ".draft" / "..") is not None
    save(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, content=b"one")
    folder = save(tmp_path, 1, content=b"two")
    assert (folder / "weights").read_bytes() == b"two"


def test_foreign_files_are_no_checkpoints_and_a_broken_best_json_is_named(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / "checkpoint-9").write_text("no folder")
    (tmp_path / "checkpoint-2" / "below").mkdir()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert list(read_files(tmp_path / "checkpoint-2")) == ["weights"]
    (tmp_path / "best.json").write_text("")
    with pytest.raises(LearnerError, match=r"best\.json cannot be read"):
        best_step(tmp_path)
