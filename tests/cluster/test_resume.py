from pathlib import Path

import pytest

from cluster.config import Config, load_config
from cluster.resume import resumed_config
from cluster.run_folder import RunFolder
from cluster.types import ConfigError, RunFolderError


def started(folder: Path, *overrides: str, checkpoint: int | None = 20) -> Config:
    config = load_config(None, [f"run.folder={folder.parent}", f"run.name={folder.name}", *overrides], environment={})
    with RunFolder(folder).opened(config):
        if checkpoint is not None:
            (folder / f"checkpoints/checkpoint-{checkpoint}").mkdir()
    return config


def go_on(folder: Path, *overrides: str) -> Config:
    config = resumed_config(folder, overrides)
    with RunFolder(folder).opened(config):
        return config


def test_without_changes_a_run_goes_on_as_it_was_wherever_its_folder_is_now(tmp_path: Path) -> None:
    before = started(tmp_path / "a", "temperature=0.8")
    assert go_on(tmp_path / "a") == before
    (tmp_path / "a").rename(tmp_path / "b")
    moved = resumed_config(tmp_path / "b", ["num_samplers=3"])
    assert (moved.run.name, moved.rollout.num_samplers, moved.branches) == ("b", 3, ())


def test_a_change_holds_from_the_checkpoint_on_and_for_every_further_start(tmp_path: Path) -> None:
    started(tmp_path / "a", "learning_rate=1e-5")
    changed = go_on(tmp_path / "a", "learning_rate=7e-6", "temperature=1.2")
    assert changed.learner.learning_rate == 1e-5
    schedule = changed.schedule()
    assert schedule.at(step=19, epoch=0.0) == {"learner.learning_rate": 1e-5, "rollout.temperature": 0.9}
    assert schedule.at(step=20, epoch=0.0) == {"learner.learning_rate": 7e-6, "rollout.temperature": 1.2}
    assert go_on(tmp_path / "a") == changed
    assert go_on(tmp_path / "a", "temperature=1.2") == changed  # the same command again
    with (
        pytest.raises(RunFolderError, match=r"branches=\[\] .*--resume"),
        RunFolder(tmp_path / "a").opened(
            load_config(None, [f"run.folder={tmp_path}", "run.name=a", "learning_rate=1e-5"], environment={})
        ),
    ):
        pass


def test_a_second_change_comes_after_the_first_and_wins_over_phases(tmp_path: Path) -> None:
    phases = "phases=[{from_step: 30, set: {rollout.temperature: 0.7, learner.kl_coefficient: 0.1}}]"
    started(tmp_path / "a", phases)
    go_on(tmp_path / "a", "temperature=1.2")
    (tmp_path / "a/checkpoints/checkpoint-40").mkdir()
    changed = go_on(tmp_path / "a", "temperature=1.0")
    temperatures = [changed.schedule().at(step=step, epoch=0.0)["rollout.temperature"] for step in (0, 20, 39, 40)]
    assert temperatures == [0.9, 1.2, 1.2, 1.0]
    assert changed.schedule().at(step=40, epoch=0.0)["learner.kl_coefficient"] == 0.1


def test_setting_a_key_to_what_the_run_began_with_is_a_change_where_a_phase_sets_it(tmp_path: Path) -> None:
    started(tmp_path / "a", "phases=[{from_step: 10, set: {rollout.temperature: 0.7}}]")
    assert go_on(tmp_path / "a", "temperature=0.9").schedule().at(step=20, epoch=0.0) == {"rollout.temperature": 0.9}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.lora.r=8", "learner.lora.r cannot change while a run is going on: checkpoints and samplers"),
        ("model.path=other", "model.path cannot change while a run is going on; these can: "),
        ("temperature=-1", "temperature"),
        ("max_completion_tokens=4096", "more than the engines are started for"),
        ("nonsense=1", "unknown key"),
    ],
)
def test_what_cannot_change_is_refused_and_the_run_is_as_it_was(tmp_path: Path, override: str, message: str) -> None:
    started(tmp_path / "a")
    before = (tmp_path / "a/config.yaml").read_text()
    with pytest.raises(ConfigError, match=message):
        resumed_config(tmp_path / "a", [override])
    assert (tmp_path / "a/config.yaml").read_text() == before


def test_a_folder_with_nothing_to_go_on_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has no config\.yaml"):
        resumed_config(tmp_path / "none", [])
    started(tmp_path / "a", checkpoint=None)
    with pytest.raises(RunFolderError, match="has no checkpoint to go on from"):
        resumed_config(tmp_path / "a", ["temperature=1.2"])
