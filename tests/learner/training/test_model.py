"""Loading of models: generation configs that could not be saved later, and weights that do not fit."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from cluster.errors import ModelError
from learner.settings import LearnerSettings
from learner.training.adapter import base_name
from learner.training.merge import write_model
from learner.training.model import Device, check_saveable, load_model, remove_local_paths
from learner.training.threads import MIN_PARAMETERS, num_threads

DEVICE = Device(use_cpu=True, dtype=torch.float32)


@pytest.fixture
def model(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


@pytest.mark.parametrize(
    ("written", "kept", "message"),
    [
        ({"temperature": 0.6}, {"temperature": 0.6, "do_sample": True}, "do_sample=true is set"),
        ({"top_p": 0.9, "top_k": 20}, {"top_p": 0.9, "top_k": 20, "do_sample": True}, "do_sample=true is set"),
        ({"do_sample": False, "temperature": 0.6, "min_p": 0.1}, {"do_sample": False}, "temperature, min_p removed"),
        ({"num_beams": 1, "early_stopping": True}, {"num_beams": 1}, "early_stopping"),
        ({"pad_token_id": -1}, {}, "pad_token_id removed"),
        (
            {"output_scores": True, "return_dict_in_generate": False},
            {"return_dict_in_generate": False},
            "output_scores",
        ),
        ({"temperature": 0.6, "pad_token_id": -1}, {}, "temperature"),
        ({"do_sample": True, "temperature": 0.6}, {"do_sample": True, "temperature": 0.6}, None),
        ({"no_field_of_theirs": 1}, {"no_field_of_theirs": 1}, None),
        ({}, {}, None),
    ],
)
def test_a_generation_config_that_transformers_would_not_save_is_repaired_with_a_warning(
    written: dict[str, object],
    kept: dict[str, object],
    message: str | None,
    model: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (model / "generation_config.json").write_text(json.dumps(written | {"eos_token_id": [1, 3]}))
    with caplog.at_level(logging.WARNING):
        loaded, tokenizer = load_model(str(model), DEVICE)
    check_saveable(str(model))
    if message:
        assert len(caplog.messages) == 1
        assert message in caplog.messages[0] and "repaired" in caplog.messages[0]
    else:
        assert not caplog.messages
    write_model(loaded, tokenizer, tmp_path / "saved", dtype="bfloat16")
    saved = json.loads((tmp_path / "saved/generation_config.json").read_text())
    assert kept.items() <= saved.items() and saved["eos_token_id"] == [1, 3]
    assert all(saved.get(name) is None for name in written if name not in kept)


@pytest.mark.parametrize(
    "text",
    ["{oops", "", "[1, 2]", "null", '{"max_new_tokens": "x"}', '{"max_new_tokens": -5}', '{"eos_token_id": "<|im_end|>"}',
     '{"eos_token_id": [1, "x"]}', '{"cache_implementation": "weird"}', '{"watermarking_config": {"foo": 1}}'],
)  # fmt: skip
def test_a_generation_config_that_cannot_be_used_is_refused_in_one_line(text: str, model: Path) -> None:
    (model / "generation_config.json").write_text(text)
    for refuse in (lambda: load_model(str(model), DEVICE), lambda: check_saveable(str(model))):
        with pytest.raises(
            ModelError, match=r"its generation_config.json cannot be used .*; correct it, or delete it"
        ) as caught:
            refuse()
        assert "\n" not in str(caught.value)


def test_a_model_without_a_generation_config_loads(model: Path) -> None:
    (model / "generation_config.json").unlink()
    load_model(str(model), DEVICE)
    check_saveable(str(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tie_word_embeddings": False}, "lm_head.weight"),
        ({"vocab_size": 70}, "embed_tokens"),
        ({"intermediate_size": 64}, "mlp"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(
    change: dict[str, object], message: str, model: Path
) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=r"its weights do not fit its config.json") as caught:
        load_model(str(model), DEVICE)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_be_saved_is_refused_early(model: Path) -> None:
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"chat_template": [{"name": "a/b", "template": "x"}]}))
    with pytest.raises(ModelError, match="could not be saved: ValueError"):
        check_saveable(str(model))


def test_local_paths_are_removed(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(
            '{"_name_or_path": "/home/me", "name_or_path": "/home/me", "auto_map": {}, "kept": "é"}'
        )
    remove_local_paths(tmp_path)
    assert [json.loads(path.read_text()) for path in tmp_path.iterdir()] == [{"kept": "é"}] * 2


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Qwen/Qwen2.5-Coder-1.5B", "Qwen/Qwen2.5-Coder-1.5B"),
        ("gpt2", "gpt2"),
        ("/home/me/models/mine", "mine"),
        ("/home/me/models/mine/", "mine"),
        ("~/mine", "mine"),
        ("./mine", "mine"),
        ("/c/hub/models--Qwen--Qwen2.5-Coder-1.5B/snapshots/abc", "Qwen/Qwen2.5-Coder-1.5B"),
    ],
)
def test_a_base_model_is_named_without_its_folder(model: str, name: str) -> None:
    assert base_name(model) == name


def test_a_large_model_trains_with_all_cores_and_a_small_one_with_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("learner.training.threads.usable_cores", lambda: 6)
    unset, one, more = LearnerSettings(), LearnerSettings(num_threads=1), LearnerSettings(num_threads=9)
    assert [num_threads(unset, size) for size in (MIN_PARAMETERS - 1, MIN_PARAMETERS)] == [1, 6]
    assert [num_threads(one, size) for size in (10**6, 10**9)] == [1, 1]
    assert [num_threads(more, size) for size in (10**6, 10**9)] == [9, 9]
