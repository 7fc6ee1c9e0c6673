"""Settings that depend on ``learner.method``."""

from pathlib import Path

import pytest

from cluster.config.config import dump_yaml
from cluster.config.load import load_config
from cluster.errors import ConfigError
from rollout.settings import RolloutSettings


def test_training_all_weights_sets_its_weight_sync_mode_and_keeps_it_in_the_run(tmp_path: Path) -> None:
    assert load_config(None, [], environment={}).rollout.weight_sync_mode == "auto"
    config = load_config(None, ["learner.method=full", "rollout.group_size=4"], environment={})
    assert (config.rollout.weight_sync_mode, config.rollout.group_size) == ("full", 4)
    assert load_config(
        None, ["learner.method=full", "weight_sync_mode=auto"], environment={}
    ).rollout == RolloutSettings(weight_sync_mode="full")
    written = tmp_path / "config.yaml"
    written.write_text(dump_yaml(config))
    assert "lora:" not in written.read_text()
    again = load_config(written, ["run.name=run"], environment={})
    assert (again.learner, again.rollout) == (config.learner, config.rollout)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["learner.method=full", "weight_sync_mode=versions"], "remove it, or set rollout.weight_sync_mode=full"),
        (["learner.method=full", "weight_sync_mode=merged"], "rollout.weight_sync_mode=merged: it publishes adapters"),
        (["weight_sync_mode=full"], "rollout.weight_sync_mode=full: .*set learner.method=full, or one of the modes"),
        (["learner.method=full", "lora.r=16"], r"learner.lora.r=16: .*or set its default, 32"),
        (["learner.method=some"], "learner.method='some'"),
    ],
)
def test_settings_that_do_not_fit_the_method_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides, environment={})
