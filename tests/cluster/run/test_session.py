"""Adapters that a session reads or refuses at its start."""

from pathlib import Path

import pytest

from cluster.config.load import load_config
from cluster.errors import ConfigError, ModelError
from cluster.run.preflight import refuse_adapter
from learner.adapter_folder import read_adapter


def test_a_run_folder_in_place_of_an_adapter_is_refused_with_the_path_of_its_adapter(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        read_adapter(tmp_path)
    assert "Did you mean" not in str(refused.value)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError) as refused:
        read_adapter(tmp_path)
    assert str(refused.value).endswith(f"Did you mean {tmp_path / 'adapter'}?")


def test_an_adapter_that_a_command_would_ignore_is_refused() -> None:
    config = load_config(None, ["model.adapter=runs/demo/adapter"], environment={})
    with pytest.raises(ConfigError, match=r"`caravan train learner\.adapter=runs/demo/adapter`"):
        refuse_adapter(config, "train")
    config = load_config(None, ["learner.adapter=runs/demo/adapter"], environment={})
    refuse_adapter(config, "train")
    with pytest.raises(ConfigError, match="sft trains a new adapter"):
        refuse_adapter(config, "sft")
