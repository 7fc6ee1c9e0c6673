"""Paths that are not models: refused at once, with the path to use instead."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from cluster.config.hub import unreachable_reason
from cluster.config.load import load_config
from cluster.config.model_path import check_model_path
from cluster.errors import ModelError


def check(path: object) -> None:
    check_model_path(load_config(None, [f"model.path={path}"], environment={}))


def make_adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "base_model_name_or_path": "some/base"}))
    return folder


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    unreachable_reason.cache_clear()
    yield
    unreachable_reason.cache_clear()


def test_the_folder_of_an_adapter_is_refused_with_its_base_and_the_ways_to_use_it(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    with pytest.raises(ModelError) as refused:
        check(adapter)
    assert f"model.path={adapter} is a LoRA adapter, not a model" in str(refused.value)
    assert f"model.path=some/base model.adapter={adapter} " in str(refused.value)
    assert f"model.path=some/base learner.adapter={adapter} (`caravan train`)" in str(refused.value)


def test_the_folder_of_a_run_is_refused_with_its_adapter(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "run" / "adapter")
    with pytest.raises(ModelError, match="is the folder of a run, not a model") as refused:
        check(tmp_path / "run")
    assert f"model.adapter={adapter} " in str(refused.value)


def test_a_folder_with_a_model_and_an_adapter_is_accepted(tmp_path: Path) -> None:
    make_adapter(tmp_path / "model" / "adapter")
    (tmp_path / "model" / "config.json").write_text("{}")
    check(tmp_path / "model")
    check("tiny")


@pytest.mark.parametrize(
    ("path", "message"), [("nosuchdir", "OWNER/NAME"), ("a/b/c", "no such folder"), ("./a", "no such")]
)
def test_an_impossible_name_of_a_hub_model_is_refused_without_a_request(path: str, message: str, no_hub: None) -> None:
    with pytest.raises(ModelError, match=message):
        check(path)
    assert unreachable_reason.cache_info().currsize == 0


@pytest.mark.parametrize("path", ["some/model", "gpt2"])
def test_a_hub_that_does_not_answer_is_reported_in_one_line(path: str, no_hub: None) -> None:
    with pytest.raises(
        ModelError, match=r"the Hugging Face hub cannot be used \(http://127\.0\.0\.1:1 does not answer"
    ) as refused:
        check(path)
    assert "\n" not in str(refused.value)


def test_the_folder_of_a_run_that_trained_all_weights_is_refused_with_its_model(tmp_path: Path) -> None:
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=f"trained all weights, not a model: model.path={model}$"):
        check(tmp_path / "run")
