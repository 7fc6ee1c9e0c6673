"""Adapters merged into weights, compared with peft's own merge."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save

from cluster.errors import ModelError, ResourcesError
from cluster.types import PolicyVersion
from rollout.merge import merged_modules, require_space, weights_folder, write_merged
from tests.rollout.conftest import TinyModel

MERGED_FILE = "model.safetensors"  # as in the base models


def test_merged_weights_are_those_that_peft_merges(
    tiny_model: TinyModel, adapter_folders: dict[int, Path], policies: dict[int, PolicyVersion], tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    write_merged(weights_folder(tiny_model.path), policies[1].adapter, tmp_path, "float32")
    merged = load_file(tmp_path / MERGED_FILE)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model.path), adapter_folders[1])
    expected = model.merge_and_unload().state_dict()
    assert set(merged) == set(expected) - {"lm_head.weight"}  # tied to the embeddings
    assert all(torch.allclose(merged[name], expected[name], atol=1e-6) for name in merged)


def test_merged_modules_are_those_that_the_adapter_names(policies: dict[int, PolicyVersion]) -> None:
    adapter = merged_modules(policies[1].adapter)
    assert adapter.bound == tuple(sorted(policies[1].modules))


def test_every_version_is_added_to_the_base_weights_and_cast_at_the_end(
    tiny_model: TinyModel, policies: dict[int, PolicyVersion], tmp_path: Path
) -> None:
    base = load_file(weights_folder(tiny_model.path) / "model.safetensors")
    for _ in range(2):
        write_merged(weights_folder(tiny_model.path), policies[1].adapter, tmp_path, "bfloat16")
    weights = load_file(tmp_path / MERGED_FILE)
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    name = "model.layers.0.self_attn.q_proj"
    adapter = load(policies[1].adapter["adapter_model.safetensors"])
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    assert torch.equal(weights[f"{name}.weight"], (base[f"{name}.weight"] + 7 / 12**0.5 * (b @ a)).bfloat16())


@pytest.mark.parametrize(
    ("config", "message"),
    [(b'"use_dora": true', "merges only plain LoRA"), (b'"fan_in_fan_out": true', "into plain weights")],
)
def test_an_adapter_that_is_not_plain_lora_is_refused(
    tiny_model: TinyModel, policies: dict[int, PolicyVersion], tmp_path: Path, config: bytes, message: str
) -> None:
    adapter = {**policies[1].adapter, "adapter_config.json": b'{"r": 8, "lora_alpha": 16, ' + config + b"}"}
    with pytest.raises(ModelError, match=message):
        write_merged(weights_folder(tiny_model.path), adapter, tmp_path, "float32")


def test_an_adapter_for_missing_weights_is_refused_by_name(
    tiny_model: TinyModel, policies: dict[int, PolicyVersion], tmp_path: Path
) -> None:
    weights = load(policies[1].adapter["adapter_model.safetensors"])
    other = {name.replace("layers.1", "layers.7"): tensor for name, tensor in weights.items()}
    policy = replace(policies[1], adapter={**policies[1].adapter, "adapter_model.safetensors": save(other)})
    with pytest.raises(ModelError, match=r"trains model.layers.7.\S+, and"):
        write_merged(weights_folder(tiny_model.path), policy.adapter, tmp_path, "float32")


@pytest.mark.parametrize("broken", [b"no safetensors", b""])
def test_a_file_that_is_not_an_adapter_is_refused(
    tiny_model: TinyModel, policies: dict[int, PolicyVersion], tmp_path: Path, broken: bytes
) -> None:
    adapter = {**policies[1].adapter, "adapter_model.safetensors": broken}
    with pytest.raises(ModelError, match="cannot be read"):
        write_merged(weights_folder(tiny_model.path), adapter, tmp_path, "float32")


def test_weights_are_found_under_their_names_in_the_saved_files(tmp_path: Path) -> None:
    """The language model of a multi-modal Gemma 3 has other names in its files than in its modules."""
    from transformers import AutoModelForCausalLM, Gemma3Config

    text = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 16,
    }
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={**text, "num_key_value_heads": 1, "vocab_size": 100}, vision_config=vision, mm_tokens_per_image=4
    )
    model = AutoModelForCausalLM.from_config(config)
    (name,) = (name for name, _ in model.named_modules() if name.endswith("self_attn.q_proj") and "vision" not in name)
    base, merged = tmp_path / "base", tmp_path / "merged"
    model.save_pretrained(base)
    merged.mkdir()
    a, b = torch.randn(2, 32), torch.randn(32, 2)
    adapter = {
        "adapter_config.json": b'{"r": 2, "lora_alpha": 4}',
        "adapter_model.safetensors": save(
            {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        ),
    }
    write_merged(base, adapter, merged, "float32")
    before, after = load_file(base / "model.safetensors"), load_file(merged / MERGED_FILE)
    assert f"{name}.weight" not in before
    (changed,) = (key for key in before if not torch.equal(before[key], after[key]))
    assert changed.endswith("self_attn.q_proj.weight")
    assert torch.allclose(after[changed], before[changed] + 2 * (b @ a))


def test_only_the_weights_in_the_index_are_read(
    tiny_model: TinyModel, policies: dict[int, PolicyVersion], tmp_path: Path
) -> None:
    import shutil

    base, merged = tmp_path / "base", tmp_path / "merged"
    shutil.copytree(tiny_model.path, base)
    merged.mkdir()
    (base / "consolidated.safetensors").write_bytes(save({"layers.0.attention.wq.weight": torch.zeros(2)}))
    write_merged(base, policies[1].adapter, merged, "float32")
    assert load_file(merged / MERGED_FILE).keys() == load_file(base / "model.safetensors").keys()


def test_only_frozen_experts_are_omitted(tmp_path: Path) -> None:
    from tests.model_families import make_model

    base = make_model(tmp_path / "base", "qwen3_moe")
    name = "model.layers.0.self_attn.q_proj"
    weights = load_file(tmp_path / "base" / "model.safetensors")
    a, b = torch.randn(2, weights[f"{name}.weight"].shape[1]), torch.randn(weights[f"{name}.weight"].shape[0], 2)
    factors = {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    adapter = {"adapter_config.json": b'{"r": 2, "lora_alpha": 4}', "adapter_model.safetensors": save(factors)}
    (tmp_path / "merged").mkdir()
    write_merged(weights_folder(base), adapter, tmp_path / "merged", "float32")
    merged = load_file(tmp_path / "merged" / MERGED_FILE)
    assert torch.allclose(merged[f"{name}.weight"], weights[f"{name}.weight"] + 2 * (b @ a))
    excluded = weights.keys() - merged.keys()
    assert excluded
    assert all(".mlp.experts." in key for key in excluded)
    assert "model.layers.0.mlp.gate.weight" in merged


def test_files_are_merged_one_by_one_and_an_adapter_of_another_shape_is_refused(
    tiny_model: TinyModel, policies: dict[int, PolicyVersion], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    whole, split, base = tmp_path / "whole", tmp_path / "split", tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_model.path).save_pretrained(base, max_shard_size="200KB")
    for folder, model in ((whole, Path(tiny_model.path)), (split, base)):
        folder.mkdir()
        write_merged(model, policies[1].adapter, folder, "bfloat16")
    files = sorted(split.iterdir())
    assert len(files) > 1
    assert [file.name for file in files] == sorted(file.name for file in base.glob("*.safetensors"))
    merged = {name: tensor for file in files for name, tensor in load_file(file).items()}
    expected = load_file(whole / MERGED_FILE)
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in merged)

    weights = load(policies[1].adapter["adapter_model.safetensors"])
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    other = {**policies[1].adapter, "adapter_model.safetensors": save({**weights, name: weights[name][:5].clone()})}
    with pytest.raises(
        ModelError, match=r"trains model.layers.0.self_attn.q_proj, and .* no weight of that name and shape"
    ):
        write_merged(base, other, split, "bfloat16")


def test_weights_that_do_not_fit_twice_are_refused_with_numbers(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil
    from types import SimpleNamespace

    base = weights_folder(tiny_model.path)
    size = sum(2 * tensor.numel() for tensor in load_file(base / MERGED_FILE).values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * size))
    require_space(base, tmp_path, "bfloat16", num_versions=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * size - 1))
    require_space(base, tmp_path, "bfloat16", num_versions=1)
    with pytest.raises(ResourcesError, match=r"2 x 0.0 GiB of whole weights do not fit into .*--shm-size.*=versions"):
        require_space(base, tmp_path, "bfloat16", num_versions=2)
