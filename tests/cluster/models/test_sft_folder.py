"""The output folder of ``caravan sft``: created, locked, resumed and refused."""

from pathlib import Path

import pytest

from cluster.console import check_empty
from cluster.errors import ConfigError
from cluster.models.sft_folder import SftFolder

SETTINGS = {"learning_rate": 0.1, "lora": {"r": 8}}


def checkpoint(root: Path, step: int) -> Path:
    folder = root / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SftFolder:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "tmp"))
    return SftFolder(tmp_path / "out")


def test_a_folder_without_a_checkpoint_is_removed(folder: SftFolder) -> None:
    with pytest.raises(RuntimeError), folder.opened(SETTINGS):
        folder.write_line("step 1")
        raise RuntimeError
    assert not folder.path.exists()


def test_a_checkpoint_is_kept_and_resumed_only_with_the_same_settings(folder: SftFolder) -> None:
    with folder.opened(SETTINGS):
        checkpoint(folder.work, 5)
    assert SftFolder(folder.path).newest() == folder.work / "checkpoint-5"
    with folder.opened(SETTINGS | {"new": 1}):
        pass
    with (
        pytest.raises(ConfigError, match=r"\(learning_rate was 0.1 and is 0.2\)"),
        folder.opened(SETTINGS | {"learning_rate": 0.2}),
    ):
        pass
    assert folder.newest() == folder.work / "checkpoint-5"


def test_the_newest_checkpoint_may_be_in_the_spare_folder(folder: SftFolder) -> None:
    with folder.opened(SETTINGS):
        checkpoint(folder.work, 5)
        newest = checkpoint(folder.spare, 9)
    assert folder.newest() == newest


def test_only_the_model_and_its_log_remain_after_publishing(folder: SftFolder) -> None:
    with folder.opened(SETTINGS):
        checkpoint(folder.work, 5)
        checkpoint(folder.spare, 9)
        folder.write_line("step 1")
        (folder.draft / "adapter").mkdir(parents=True)
        (folder.draft / "config.json").write_text("new")
        (folder.path / "config.json").write_text("of a run that was killed while it was published")
        checkpoint(folder.path / "adapter", 1)
        folder.move_into_place()
    assert sorted(path.name for path in folder.path.iterdir()) == ["adapter", "config.json", "sft.log"]
    assert (folder.path / "config.json").read_text() == "new" and not any((folder.path / "adapter").iterdir())
    assert not folder.spare.exists()
    with pytest.raises(ConfigError, match="is not an empty folder"):
        folder.check(SETTINGS)


def test_two_processes_cannot_train_into_one_folder(folder: SftFolder) -> None:
    with folder.opened(SETTINGS):
        checkpoint(folder.work, 1)
        with (
            pytest.raises(ConfigError, match="another `caravan sft` is writing to"),
            SftFolder(folder.path).opened(SETTINGS),
        ):
            pass
        assert folder.newest()


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError) as caught, SftFolder(out).opened(SETTINGS):
            pass
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        check_empty(tmp_path / ("x" * 300))
