"""A run whose last steps cannot be saved: its adapter is written to a folder that the warning names."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cluster.config.config import Config
from cluster.errors import LearnerError
from cluster.ledger.run_folder import RunFolder
from cluster.run.training import Training

FULL = "the checkpoint cannot be written: No space left on device"


class FullDriver:
    async def train(self) -> int:
        raise LearnerError(FULL)  # as at the last step, when no other part is running

    async def save_checkpoint(self) -> None:
        raise LearnerError(FULL)


class FakeLearner:
    def __init__(self, *, refused: tuple[str, ...]) -> None:
        self.refused = refused
        self.written: list[Path] = []

    async def export_adapter(self, folder: Path) -> None:
        if any(part in str(folder) for part in self.refused):
            raise LearnerError(f"the adapter cannot be written to {folder}: No space left on device")
        self.written.append(folder)


class Warnings:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def warning_and_written(tmp_path: Path, *refused: str) -> tuple[str, list[Path]]:
    training: Any = Training.__new__(Training)
    training._view, training._folder, training._config = Warnings(), RunFolder(tmp_path / "run"), Config()
    learner = FakeLearner(refused=refused)
    with pytest.raises(LearnerError, match="No space left"):
        asyncio.run(training._drive(FullDriver(), learner))
    (warning,) = training._view.warnings
    return warning, learner.written


def test_the_adapter_of_steps_that_cannot_be_saved_is_kept_in_the_run(tmp_path: Path) -> None:
    warning, written = warning_and_written(tmp_path)
    assert written == [tmp_path / "run/unsaved-adapter"]
    assert warning.startswith(f"the steps since the last checkpoint cannot be resumed from: {FULL}")
    assert warning.endswith(f"The adapter after these steps is in {written[0]}")


def test_the_adapter_is_written_elsewhere_if_the_disk_of_the_run_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    warning, (written,) = warning_and_written(tmp_path, "unsaved-adapter")
    assert written.parent == tmp_path / "tmp" and warning.endswith(f"is in {written}")
    assert "They are lost: the adapter cannot be written" in warning_and_written(tmp_path, "adapter")[0]
