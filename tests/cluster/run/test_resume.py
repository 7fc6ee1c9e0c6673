import asyncio
import json
import shutil
from pathlib import Path

import pytest

from cluster.config.config import Config, validate
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.progress import Progress
from cluster.ledger.run_folder import RunFolder
from cluster.placement.ray_cluster import place
from cluster.run.resume import resumed_config
from cluster.run.train import train
from learner.lora_settings import LoraSettings
from learner.settings import LearnerSettings
from tests.learner.factories import group, plan


def started(folder: Path, *overrides: str, checkpoint: int | None = 20) -> Config:
    config = load_config(None, [f"run.folder={folder.parent}", f"run.name={folder.name}", *overrides], environment={})
    with RunFolder(folder).opened(config):
        if checkpoint is not None:
            (folder / f"checkpoints/checkpoint-{checkpoint}").mkdir()
    return config


def resume(folder: Path, *overrides: str) -> Config:
    config = resumed_config(folder, overrides)
    with RunFolder(folder).opened(config) as opened:
        opened.write_config()
        return config


def test_a_start_that_fails_leaves_no_change_behind(tmp_path: Path) -> None:
    before = started(tmp_path / "a")
    changed = resumed_config(tmp_path / "a", ["temperature=1.2"])
    assert changed.resume_overrides
    with RunFolder(tmp_path / "a").opened(changed):
        pass  # its parts did not start
    assert resumed_config(tmp_path / "a", []) == before


def test_a_run_resumes_unchanged_after_its_folder_was_renamed(tmp_path: Path) -> None:
    before = started(tmp_path / "a", "temperature=0.8")
    assert resume(tmp_path / "a") == before
    (tmp_path / "a").rename(tmp_path / "b")
    moved = resumed_config(tmp_path / "b", ["num_samplers=3"])
    assert (moved.run.name, moved.rollout.num_samplers, moved.resume_overrides) == ("b", 3, ())


@pytest.mark.parametrize("name", ["1.10", "007", "2026-11-22", "2024_11", "on", "null"])
def test_a_run_resumes_in_its_folder_even_if_its_name_is_a_number_or_null_in_yaml(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "My runs #1: all" / name
    config = validate({"run": {"folder": str(folder.parent), "name": name}})
    with RunFolder(folder).opened(config):
        (folder / "checkpoints/checkpoint-20").mkdir()
    for overrides in ([], ["temperature=1.2"]):
        resumed = resumed_config(folder, overrides)
        assert resumed.run.folder / str(resumed.run.name) == folder


def test_values_filled_in_for_a_cluster_are_filled_in_again_at_a_resume(tmp_path: Path) -> None:
    one_gpu = {"CPU": 16.0, "GPU": 1.0}
    fresh = place(started(tmp_path / "a"), one_gpu, num_machines=2)
    assert (fresh.rollout.gpus_per_sampler, fresh.learner.gpus) == (0.5, 0.5)
    for overrides in ((), ("temperature=1.2",), ()):
        resumed = place(resume(tmp_path / "a", *overrides), one_gpu, num_machines=2)
        assert (resumed.rollout, resumed.learner) == (fresh.rollout, fresh.learner)
    assert place(resume(tmp_path / "a"), {"CPU": 16.0}, num_machines=2).learner.gpus == 0
    set_by_hand = started(tmp_path / "b", "gpus_per_sampler=0", "learner.gpus=0")
    assert (
        place(set_by_hand, one_gpu, num_machines=2).learner.gpus
        == place(resume(tmp_path / "b"), one_gpu, num_machines=2).learner.gpus
        == 0
    )


def test_a_run_with_an_incomplete_last_line_resumes(tmp_path: Path) -> None:
    started(tmp_path / "a")
    run = RunFolder(tmp_path / "a")
    run.append_json(run.health, {"step": 20, "rule": "entropy", "evidence": "low"})
    run.append_json(run.completions, {"step": 20, "completion": "x"})
    for path in (run.health, run.completions):
        with path.open("ab") as file:
            file.write('{"step": 21, "completion": "→'.encode()[:-1])
    run.learning_log.write_bytes(b"[Epoch 0.28]\n" * 20 + "reward=0.1±".encode()[:-1])
    assert resume(tmp_path / "a", "temperature=1.2").resume_overrides
    run.truncate_after(20)
    assert [row["step"] for row in (*run.rows(run.health), *run.rows(run.completions))] == [20, 20]
    assert run.learning_log.read_text() == "[Epoch 0.28]\n" * 20


def test_a_change_applies_from_the_checkpoint_on_and_at_every_further_start(tmp_path: Path) -> None:
    started(tmp_path / "a", "learning_rate=1e-5")
    changed = resume(tmp_path / "a", "learning_rate=7e-6", "temperature=1.2")
    assert changed.learner.learning_rate == 1e-5
    schedule = changed.settings_schedule()
    assert schedule.at(step=19, epoch=0.0) == {"learner.learning_rate": 1e-5, "rollout.temperature": 0.9}
    assert schedule.at(step=20, epoch=0.0) == {"learner.learning_rate": 7e-6, "rollout.temperature": 1.2}
    assert resume(tmp_path / "a") == changed
    assert resume(tmp_path / "a", "temperature=1.2") == changed  # the same command again
    with (
        pytest.raises(RunFolderError, match=r"resume_overrides=\[\] .*--resume"),
        RunFolder(tmp_path / "a").opened(
            load_config(None, [f"run.folder={tmp_path}", "run.name=a", "learning_rate=1e-5"], environment={})
        ),
    ):
        pass


def test_a_second_change_follows_the_first_and_takes_precedence_over_phases(tmp_path: Path) -> None:
    phases = "schedule=[{from_step: 30, set: {rollout.temperature: 0.7, learner.kl_coefficient: 0.1}}]"
    started(tmp_path / "a", phases)
    resume(tmp_path / "a", "temperature=1.2")
    (tmp_path / "a/checkpoints/checkpoint-40").mkdir()
    changed = resume(tmp_path / "a", "temperature=1.0")
    temperatures = [
        changed.settings_schedule().at(step=step, epoch=0.0)["rollout.temperature"] for step in (0, 20, 39, 40)
    ]
    assert temperatures == [0.9, 1.2, 1.2, 1.0]
    assert changed.settings_schedule().at(step=40, epoch=0.0)["learner.kl_coefficient"] == 0.1


def test_setting_a_key_to_its_initial_value_is_a_change_if_a_phase_set_it(tmp_path: Path) -> None:
    started(tmp_path / "a", "schedule=[{from_step: 10, set: {rollout.temperature: 0.7}}]")
    assert resume(tmp_path / "a", "temperature=0.9").settings_schedule().at(step=20, epoch=0.0) == {
        "rollout.temperature": 0.9
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learner.lora.r=8", "learner.lora.r cannot change during a run: all adapters in checkpoints and samplers"),
        ("model.path=other", "model.path cannot change during a run; these can: "),
        ("temperature=-1", "temperature"),
        ("max_completion_tokens=4096", "that the engines start with"),
        ("nonsense=1", "unknown key"),
    ],
)
def test_a_fixed_setting_is_refused_and_the_run_is_unchanged(tmp_path: Path, override: str, message: str) -> None:
    started(tmp_path / "a")
    before = (tmp_path / "a/config.yaml").read_text()
    with pytest.raises(ConfigError, match=message):
        resumed_config(tmp_path / "a", [override])
    assert (tmp_path / "a/config.yaml").read_text() == before


def finish(folder: Path, *, step: int, num_problems: int) -> None:
    """Write the files that a run writes at its end, to a folder with a checkpoint of that step."""
    run = RunFolder(folder)
    run.write(run.summary, json.dumps({"steps": step, "problems": {"training": num_problems}}))
    figures = dict.fromkeys(("reward", "reward_standard_error", "pass_rate", "solved_once"), 0.25)
    for at, name in ((0, "before"), (step, "after")):
        run.append_json(run.evaluation, {"step": at, "name": name, **figures})
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_text("weights")
    run.curve.touch()


def test_a_longer_run_is_a_resume_override_and_not_a_setting_of_its_steps(tmp_path: Path) -> None:
    started(tmp_path / "a", "max_steps=60")
    extended = resume(tmp_path / "a", "max_steps=100", "temperature=1.2")
    assert [override.model_dump() for override in extended.resume_overrides] == [
        {"from_step": 20, "set": {"loop.max_steps": 100, "rollout.temperature": 1.2}}
    ]
    assert (extended.loop.max_steps, extended.num_steps(1000)) == (60, 100)
    assert extended.settings_schedule().at(step=20, epoch=0.0) == {"rollout.temperature": 1.2}
    assert resume(tmp_path / "a", "max_steps=100") == extended  # the same command again
    assert resume(tmp_path / "a", "max_steps=60").num_steps(1000) == 60  # and back


def test_max_steps_and_epochs_replace_each_other(tmp_path: Path) -> None:
    started(tmp_path / "a", "epochs=2", "groups_per_step=4")
    run = RunFolder(tmp_path / "a")
    run.append_json(run.metrics, {"step": 20, "epoch": 2.0})
    run.save_progress(20, Progress(step=20, num_trained=80).to_json())  # so that there are 40 problems
    assert resume(tmp_path / "a").num_steps(40) == 20
    assert resume(tmp_path / "a", "epochs=3").num_steps(40) == 30
    assert resume(tmp_path / "a", "max_steps=25").num_steps(40) == 25
    assert resume(tmp_path / "a", "epochs=2.5").num_steps(40) == 25
    assert resume(tmp_path / "a", "epochs=2").num_steps(40) == 20  # the initial value of the configuration


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("max_steps=19", r"loop\.max_steps=19: .* has done 20 steps, more than the 19"),
        ("epochs=1.75", r"loop\.epochs=1\.75: .* has done 20 steps, more than the 18"),
        ("max_steps=0", r"loop\.max_steps"),
    ],
)
def test_a_run_cannot_become_shorter_than_its_recorded_steps(tmp_path: Path, override: str, message: str) -> None:
    started(tmp_path / "a", "epochs=2", "groups_per_step=4")
    run = RunFolder(tmp_path / "a")
    run.append_json(run.metrics, {"step": 20, "epoch": 2.0})
    run.append(run.metrics, '{"step": 21, "epo')  # cut by a crash
    run.save_progress(20, Progress(step=20, num_trained=70, num_dropped=10).to_json())
    before = run.config.read_text()
    with pytest.raises(ConfigError, match=message):
        resumed_config(tmp_path / "a", [override])
    assert run.config.read_text() == before


def test_both_lengths_at_once_contradict_each_other(tmp_path: Path) -> None:
    started(tmp_path / "a", "max_steps=60")
    with pytest.raises(ConfigError, match=r"loop\.max_steps and loop\.epochs contradict each other"):
        resumed_config(tmp_path / "a", ["max_steps=100", "epochs=2"])


@pytest.mark.parametrize("length", ["max_steps=20", "epochs=2"])
def test_a_finished_run_is_refused_untouched_unless_it_becomes_longer(tmp_path: Path, length: str) -> None:
    config = started(tmp_path / "a", length, "groups_per_step=4")
    finish(tmp_path / "a", step=20, num_problems=40)
    before = (tmp_path / "a/config.yaml").read_text()
    for tried in (config, resumed_config(tmp_path / "a", ["temperature=1.2"])):
        with pytest.raises(RunFolderError, match=r"finished after 20 steps.*--resume .*a max_steps=MORE"):
            asyncio.run(train(tried, View()))
    assert (tmp_path / "a/config.yaml").read_text() == before


def test_a_finished_run_without_checkpoints_is_not_started_again(tmp_path: Path) -> None:
    started(tmp_path / "a", "max_steps=20", checkpoint=None)
    finish(tmp_path / "a", step=20, num_problems=40)
    longer = load_config(None, [f"run.folder={tmp_path}", "run.name=a", "max_steps=30"], environment={})
    with pytest.raises(RunFolderError, match="is finished"):
        asyncio.run(train(longer, View()))


def test_the_former_end_of_an_extended_run_keeps_its_adapter_and_its_evaluation(tmp_path: Path) -> None:
    started(tmp_path / "a", "max_steps=20")
    finish(tmp_path / "a", step=20, num_problems=40)
    run = RunFolder(tmp_path / "a")
    for _ in range(2):  # an interruption, and the start after it
        run.reopen(20)
        assert [(result.step, result.name) for result in run.evaluations()] == [(0, "before"), (20, "step 20")]
        assert (tmp_path / "a/adapter-20/adapter_model.safetensors").read_text() == "weights"
        assert not any(path.exists() for path in (run.adapter, run.summary, run.curve))


def test_a_folder_without_a_configuration_or_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has no config\.yaml"):
        resumed_config(tmp_path / "none", [])
    started(tmp_path / "a", checkpoint=None)
    with pytest.raises(RunFolderError, match="has no checkpoint to resume from"):
        resumed_config(tmp_path / "a", ["temperature=1.2"])


def trained(folder: Path, *lengths: int, schedule: str) -> tuple[dict[str, bytes], list[float]]:
    """Adapter and learning rates of a run of real steps that had the first length, and was extended to each other one."""
    from cluster.config.model_path import tiny_model_path
    from learner.worker import LearnerWorker

    settings = LearnerSettings(learning_rate=1e-2, lr_scheduler_type=schedule, lora=LoraSettings(r=8, dropout=0.1))
    rates: list[float] = []
    for length in lengths:
        learner = LearnerWorker(settings, plan(tiny_model_path(), folder / "checkpoints", max_steps=length))
        try:
            learner.start()
            for step in range(len(rates), length):
                _, report = learner.step([group([1.0, 0.0, 0.3], seed=step), group([0.0, 0.2], seed=10 + step)])
                rates.append(report.metrics["learning_rate"])
            learner.save_checkpoint()
            learner.export_adapter(str(folder / "adapter"))
        finally:
            learner.close()
    return {path.name: path.read_bytes() for path in (folder / "adapter").iterdir()}, rates


@pytest.mark.slow
def test_an_extended_run_with_a_constant_learning_rate_ends_bit_for_bit_like_an_uninterrupted_run(
    tmp_path: Path,
) -> None:
    whole, _ = trained(tmp_path / "whole", 4, schedule="constant")
    short, _ = trained(tmp_path / "short", 2, schedule="constant")
    extended, _ = trained(tmp_path / "extended", 2, 4, schedule="constant")
    assert extended == whole
    assert extended != short


@pytest.mark.slow
def test_an_extended_run_has_the_learning_rates_of_an_uninterrupted_run_after_the_extension(tmp_path: Path) -> None:
    _, whole = trained(tmp_path / "whole", 6, schedule="linear")
    _, extended = trained(tmp_path / "extended", 3, 6, schedule="linear")
    assert extended[3:] == whole[3:]
    assert extended[:3] != whole[:3]


@pytest.mark.parametrize("name", ["copy", "a (copy)", "语 é", "😀", "-x", ".hidden"])
def test_a_copied_or_renamed_run_resumes_in_its_new_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "runs" / "a"
    with RunFolder(first).opened(load_config(None, [f"run.folder={tmp_path / 'runs'}", "run.name=a"], environment={})):
        (first / "checkpoints" / "checkpoint-4").mkdir()
    place = tmp_path / "elsewhere" / name
    shutil.copytree(first, place)
    (tmp_path / "link").symlink_to(place)
    monkeypatch.chdir(place.parent)
    for given in (place, Path(f"./{name}/"), tmp_path / "link", tmp_path / "runs" / ".." / "elsewhere" / name):
        for overrides in ([], ["num_samplers=2"], ["temperature=1.2"]):
            config = resumed_config(given, overrides)
            assert (config.run.folder, config.run.name) == (place.parent, name)
            with RunFolder(config.run.folder / (config.run.name or "")).opened(config):
                pass
    first.rename(tmp_path / "runs" / "b")
    again = load_config(
        None, [f"run.folder={tmp_path / 'runs'}", "run.name=b"], environment={}
    )  # the command with the new name
    with RunFolder(tmp_path / "runs" / "b").opened(again):
        pass


@pytest.mark.parametrize("override", ["run.name=other", "run.folder=/elsewhere"])
def test_a_resume_cannot_change_the_folder_of_a_run(override: str, tmp_path: Path) -> None:
    with RunFolder(tmp_path / "a").opened(load_config(None, environment={})):
        pass
    with pytest.raises(ConfigError, match="copy the folder and resume the copy"):
        resumed_config(tmp_path / "a", [override])
