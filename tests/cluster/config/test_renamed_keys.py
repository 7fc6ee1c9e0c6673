"""Old names of configuration keys: accepted everywhere, logged once, refused next to the new name."""

from pathlib import Path

import pytest
import yaml

from cluster.config.config import Config, dump_yaml, validate
from cluster.config.keys import RENAMED, keys
from cluster.config.load import explain_keys, load_config
from cluster.errors import ConfigError
from cluster.ledger.run_folder import RunFolder
from cluster.run.resume import resumed_config

ENTRY = {"from_step": 2, "set": {"rollout.temperature": 1.2}}


def loaded(text: str, tmp_path: Path, *overrides: str) -> tuple[Config, list[str]]:
    path = tmp_path / "old.yaml"
    path.write_text(text)
    lines: list[str] = []
    return load_config(path, overrides, environment={}, log=lines.append), lines


@pytest.mark.parametrize(
    "text",
    [
        "rollout: {policy_swap: merged, canary_tolerance: 0.2}",
        "rollout.policy_swap: merged\nrollout.canary_tolerance: 0.2",
        "policy_swap: merged\ncanary_tolerance: 0.2",
    ],
)
def test_a_file_with_old_names_sets_the_new_keys_and_logs_one_line(text: str, tmp_path: Path) -> None:
    config, lines = loaded(text, tmp_path)
    assert (config.rollout.weight_sync_mode, config.rollout.weight_sync_tolerance) == ("merged", 0.2)
    assert len(lines) == 1
    assert "rollout.policy_swap is now rollout.weight_sync_mode" in lines[0]
    assert "rollout.canary_tolerance is now rollout.weight_sync_tolerance" in lines[0]


@pytest.mark.parametrize(
    "text",
    [
        "rollout: {num_few_shot: 2, prompt_date: 2026-01-02}",
        "rollout.num_few_shot: 2\nprompt_date: 2026-01-02\nprompt:",
        "rollout: {num_few_shot: 2}\nprompt: {date: 2026-01-02}",
    ],
)
def test_old_names_move_to_another_section(text: str, tmp_path: Path) -> None:
    config, lines = loaded(text, tmp_path)
    assert (config.prompt.num_few_shot, str(config.prompt.date)) == (2, "2026-01-02")
    assert len(lines) == 1 and "rollout.num_few_shot is now prompt.num_few_shot" in lines[0]
    with pytest.raises(ConfigError, match=r"num_few_shot"):
        loaded(f"{text}\nprompt.num_few_shot: 1", tmp_path)


def test_entries_of_a_mapping_are_keys(tmp_path: Path) -> None:
    config, _ = loaded("chat_template_kwargs.a: 1", tmp_path, "prompt.chat_template_kwargs.b=false")
    assert config.prompt.chat_template_kwargs == {"a": 1, "b": False}
    assert validate(yaml.safe_load(dump_yaml(config))) == config
    with pytest.raises(ConfigError, match=r"prompt.chat_template_kwargs is a mapping"):
        loaded("chat_template_kwargs: 1", tmp_path, "chat_template_kwargs.b=1")


def test_phases_of_an_old_file_set_the_schedule(tmp_path: Path) -> None:
    config, lines = loaded(yaml.safe_dump({"phases": [ENTRY]}), tmp_path)
    assert config.settings_schedule().at(step=2, epoch=0.0) == {"rollout.temperature": 1.2}
    assert lines == ["deprecated names of settings: phases is now schedule"]
    assert (
        loaded("phases: staged-rewards", tmp_path)[0].schedule
        == loaded("schedule: staged-rewards", tmp_path)[0].schedule
    )


@pytest.mark.parametrize("override", ["policy_swap=in_flight", "rollout.policy_swap=in_flight"])
def test_an_override_with_an_old_name_takes_precedence_over_the_file(override: str, tmp_path: Path) -> None:
    config, lines = loaded("rollout: {weight_sync_mode: merged}", tmp_path, override)
    assert config.rollout.weight_sync_mode == "in_flight"
    assert lines == ["deprecated names of settings: rollout.policy_swap is now rollout.weight_sync_mode"]
    both = load_config(None, ["phases=explore-refine"], environment={}).schedule
    assert both == load_config(None, ["schedule=explore-refine"], environment={}).schedule != ()


def test_new_names_log_nothing(tmp_path: Path) -> None:
    assert loaded("rollout: {weight_sync_mode: merged}", tmp_path, "schedule=staged-rewards")[1] == []


@pytest.mark.parametrize(
    ("text", "overrides", "names"),
    [
        (
            "rollout: {policy_swap: merged, weight_sync_mode: merged}",
            (),
            ("rollout.policy_swap", "rollout.weight_sync_mode"),
        ),
        ("policy_swap: merged\nweight_sync_mode: merged", (), ("policy_swap", "rollout.weight_sync_mode")),
        ("phases: staged-rewards\nschedule: staged-rewards", (), ("phases", "schedule")),
        ("", ("policy_swap=merged", "weight_sync_mode=merged"), ("rollout.policy_swap", "rollout.weight_sync_mode")),
        ("", ("schedule=staged-rewards", "phases=staged-rewards"), ("phases", "schedule")),
    ],
)
def test_both_names_are_refused_and_named(
    text: str, overrides: tuple[str, ...], names: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(text, tmp_path, *overrides)
    assert all(name in str(caught.value) for name in names)


def test_a_run_folder_with_old_names_is_read_and_resumed(tmp_path: Path) -> None:
    config = load_config(None, [f"run.folder={tmp_path}", "run.name=a", "policy_swap=in_flight"], environment={})
    config = validate({**config.model_dump(), "schedule": [ENTRY], "resume_overrides": [ENTRY]})
    folder = RunFolder(tmp_path / "a")
    with folder.opened(config):
        (folder.checkpoints / "checkpoint-1").mkdir()
    tree = yaml.safe_load(dump_yaml(config))
    tree["phases"], tree["branches"] = tree.pop("schedule"), tree.pop("resume_overrides")
    tree["rollout"]["policy_swap"] = tree["rollout"].pop("weight_sync_mode")
    tree["rollout"]["canary_tolerance"] = tree["rollout"].pop("weight_sync_tolerance")
    folder.config.write_text(yaml.safe_dump(tree))
    assert folder.settings("rollout.weight_sync_mode") == {"rollout.weight_sync_mode": "in_flight"}
    resumed = resumed_config(folder.path, [])
    assert (resumed.rollout, resumed.schedule) == (config.rollout, config.schedule)
    assert resumed.resume_overrides == config.resume_overrides
    with folder.opened(resumed):  # the run folder accepts it as the same configuration
        folder.write_config()
    assert RENAMED.keys().isdisjoint(yaml.safe_load(folder.config.read_text()))


def test_old_names_are_listed_and_are_not_keys() -> None:
    assert RENAMED.keys().isdisjoint(keys()) and set(RENAMED.values()) <= set(keys())
    assert all(f"{old}\n    now {new}" in explain_keys() for old, new in RENAMED.items())
