"""Adapters that a session reads or refuses at its start."""

from pathlib import Path

import pytest

from cluster.config.load import load_config
from cluster.errors import ConfigError, ModelError
from cluster.run.preflight import refuse_adapter
from cluster.run.session import read_adapter


def test_a_run_folder_in_place_of_an_adapter_is_refused_with_the_path_of_its_adapter(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        read_adapter(tmp_path)
    assert "Did you mean" not in str(refused.value)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError) as refused:
        read_adapter(tmp_path)
    assert str(refused.value).endswith(f"Did you mean {tmp_path / 'adapter'}?")


def test_training_from_an_adapter_is_refused_with_the_command_that_merges_it() -> None:
    config = load_config(None, ["model.adapter=runs/demo/adapter"], environment={})
    with pytest.raises(ConfigError, match="`caravan export RUN OUT --merge`"):
        refuse_adapter(config, "train")
    refuse_adapter(load_config(None, environment={}), "train")
