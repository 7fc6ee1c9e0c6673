"""LoRA target modules: formats of names, models of other shapes, and refusals before weights are loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cluster.config.load import load_config
from cluster.errors import ConfigError, ModelError
from learner.adapter_folder import AdapterFolder, read_adapter
from learner.lora_settings import LoraSettings
from learner.training.targets import adapter_size, base_difference, check_adapter, settings_of

SEVEN = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
OTHERS = {
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "glm4": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"},
    "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "falcon": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "starcoder2": {"q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"},
    "qwen3_moe": {"q_proj", "k_proj", "v_proj", "o_proj"},  # its experts are not modules
    "glm4_moe": {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    },  # PEFT excludes gate_proj as an expert, in dense layers too
    "qwen2_moe": SEVEN,  # not the gate of its shared expert, which only weights it
}


def write_config(folder: Path, kind: str = "qwen2", **changes: Any) -> str:
    """Write the configuration of a small model, without weights; return its folder."""
    from transformers import AutoConfig

    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    if kind == "gpt2":
        size = {"n_embd": 64, "n_layer": 2, "n_head": 4}
    elif kind == "qwen2_moe":
        size |= {"num_experts": 4, "shared_expert_intermediate_size": 32}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    AutoConfig.for_model(kind, vocab_size=100, **size, **special, **changes).save_pretrained(folder)
    return str(folder)


def lora(targets: Any = "all-linear") -> LoraSettings:
    return LoraSettings(r=8, target_modules=targets)


@pytest.mark.parametrize(("kind", "transposed"), [("gpt2", ("c_attn", "c_fc", "c_proj")), ("qwen2", ())])
def test_targets_whose_weights_are_stored_transposed_are_named(
    tmp_path: Path, kind: str, transposed: tuple[str, ...]
) -> None:
    assert adapter_size(write_config(tmp_path, kind), lora()).transposed == transposed


@pytest.mark.parametrize(
    "written",
    [
        "q_proj, v_proj", "q_proj,v_proj,", " q_proj  v_proj ", ["q_proj ", " v_proj"], ["q_proj, v_proj", ""],
        "[q_proj, v_proj]", '["q_proj", "v_proj"]', ["q_proj", "v_proj", "q_proj"],
    ],
)  # fmt: skip
def test_names_are_accepted_in_every_list_format(written: Any) -> None:
    assert lora(written).target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (" , ", "at least 1 item"),
        (r".*\.(q|v)_proj", "regular expressions are not supported"),
        ("all-linear, q_proj", "one or the other"),
        (7, "valid tuple"),
        (["q_proj", 7], "valid string"),
    ],
)
def test_values_that_name_no_modules_are_refused(written: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lora(written)


def test_the_trained_weights_are_counted(tmp_path: Path) -> None:
    """The count equals PEFT's count for a model with weights."""
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from learner.training.build import lora_config

    for kind, targets in (("qwen2", "all-linear"), ("qwen2", "mlp.down_proj, q_proj"), ("gpt2", "c_attn")):
        path = write_config(tmp_path / f"{kind}-{targets}", kind)
        size = adapter_size(path, lora(targets))
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
        num_parameters = model.num_parameters()
        adapted = get_peft_model(model, lora_config(lora(targets), model, path))
        assert (size.num_trained, size.num_parameters) == (adapted.get_nb_trainable_parameters()[0], num_parameters)
        assert f"trained weights: {size.num_trained:,}, {size.num_trained / num_parameters:.2%} of" in str(size)


@pytest.mark.parametrize(("kind", "names"), [("qwen2", SEVEN), *OTHERS.items()])
def test_by_default_every_linear_module_of_the_layers_is_a_target(kind: str, names: set[str], tmp_path: Path) -> None:
    size = adapter_size(write_config(tmp_path, kind), LoraSettings())
    assert {name.rpartition(".")[2] for name in size.targets} == names


def test_only_the_decoder_of_a_vision_model_is_adapted(tmp_path: Path) -> None:
    from transformers import AutoConfig

    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    AutoConfig.for_model("gemma3", text_config={**small, "vocab_size": 300_000}, vision_config=small).save_pretrained(
        tmp_path
    )
    size = adapter_size(str(tmp_path), lora("q_proj"))
    assert size.targets == ("model.language_model.layers.0.self_attn.q_proj",)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("q_proj, nonsense", "'nonsense' matches no module of model"),
        ("q_porj", "Did you mean q_proj?"),
        ("proj", "'proj' matches no module"),
        ("embed_tokens", "'embed_tokens' matches model.embed_tokens, which is not a linear module of the decoder"),
        ("q_proj,self_attn", "'self_attn' matches model.layers.0.self_attn, which is not a linear module"),
        ("input_layernorm", "which is not a linear module"),
        ("layers.7.self_attn.q_proj", "matches no module"),
    ],
)
def test_names_that_do_not_fit_are_refused_with_names_that_fit(targets: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        adapter_size(write_config(tmp_path), lora(targets))
    assert message in str(caught.value)
    assert "Its linear modules are q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; all-linear" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


def test_weights_of_experts_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = write_config(tmp_path, "qwen3_moe", num_experts=4, moe_intermediate_size=32)
    with pytest.raises(
        ConfigError, match=r"'experts.gate_up_proj' is the weight \S+experts.gate_up_proj, not a module"
    ):
        adapter_size(path, lora("experts.gate_up_proj"))
    with pytest.raises(ConfigError, match=r"'experts' matches .*experts, which is not a linear module"):
        adapter_size(path, lora("experts"))
    with pytest.raises(ConfigError, match=r"learner\.lora\.target_parameters: weights of experts are frozen"):
        load_config(None, ["learner.lora.target_parameters=[experts.gate_up_proj]"], environment={})


def test_a_quantized_model_is_refused_in_one_line(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ModelError, match="is quantized") as caught:
        adapter_size(path, lora())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "broken", ["{", '{"model_type": "t5"}', '{"model_type": "qwen2", "hidden_size": "many"}', "{}"]
)
def test_an_invalid_configuration_is_refused_in_one_line(broken: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(broken)
    with pytest.raises(ModelError, match="cannot be built from its configuration") as caught:
        adapter_size(str(tmp_path), lora())
    assert "\n" not in str(caught.value)


def adapter(folder: Path, changes: Any = None, **shapes: tuple[int, int]) -> AdapterFolder:
    """An adapter folder as PEFT writes it, with weights of these shapes."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "base_model_name_or_path": "org/other"} | (changes or {})
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = {f"base_model.model.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    save_file(weights, folder / "adapter_model.safetensors")
    return read_adapter(folder)


def pair(module: str, rank: int = 8, width: int = 64) -> dict[str, tuple[int, int]]:
    return {f"{module}.lora_A.weight": (rank, 64), f"{module}.lora_B.weight": (width, rank)}


Q = "model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({**pair(Q), f"{Q}.lora_A.weight": (8, 32)}, f"its {Q} has 32 inputs, and the model's has 64"),
        ({**pair(Q), f"{Q}.lora_B.weight": (32, 8)}, f"its {Q} has 32 outputs, and the model's has 64"),
        (
            pair("model.layers.5.mlp.up_proj"),
            "it changes model.layers.5.mlp.up_proj, which the model's",
        ),
        (pair("lm_head"), "it changes lm_head"),
        ({"model.embed_tokens.lora_embedding_A": (8, 100)}, "it holds base_model.model.model.embed_tokens.lora_"),
        ({"lm_head.weight": (100, 64)}, "it holds base_model.model.lm_head.weight, and vLLM serves only LoRA"),
    ],
)
def test_an_adapter_of_another_model_is_refused_in_one_line(weights: Any, message: str, tmp_path: Path) -> None:
    path = write_config(tmp_path / "model")
    with pytest.raises(ModelError) as caught:
        check_adapter(path, adapter(tmp_path / "adapter", **weights))
    assert f"the adapter {tmp_path / 'adapter'} does not fit model '{path}': {message}" in str(caught.value)
    assert "names org/other as its base model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_made_elsewhere_sets_the_adapter_that_is_trained(tmp_path: Path) -> None:
    path = write_config(tmp_path / "model")
    changes = {"r": 6, "lora_alpha": 4.5, "use_rslora": True, "target_modules": ".*q_proj"}
    made = adapter(tmp_path / "made", changes, **pair("model.layers.0.self_attn.q_proj", 6), **pair(Q, 6))
    check_adapter(path, made)
    assert settings_of(made, path, LoraSettings()) == {
        "r": 6, "alpha": 4.5, "use_rslora": True, "target_modules": ("q_proj",)
    }  # fmt: skip
    of_one_layer = adapter(tmp_path / "one", **pair(Q))
    assert settings_of(of_one_layer, path, LoraSettings())["target_modules"] == (Q,)
    assert settings_of(of_one_layer, path, LoraSettings(r=8, target_modules=("layers.1.self_attn.q_proj",)))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"r": 16}, "learner.lora.r=16 contradicts the adapter"),
        ({"alpha": 8}, "set learner.lora.alpha=16, or remove it"),
        ({"target_modules": "q_proj"}, "learner.lora.target_modules=q_proj contradicts"),
    ],
)
def test_settings_that_contradict_the_initial_adapter_are_refused(lora: Any, message: str, tmp_path: Path) -> None:
    path = write_config(tmp_path / "model")
    with pytest.raises(ConfigError, match=message):
        settings_of(adapter(tmp_path / "adapter", **pair(Q)), path, LoraSettings(**lora))


def test_an_adapter_with_ranks_of_its_own_per_module_cannot_be_trained_further(tmp_path: Path) -> None:
    path = write_config(tmp_path / "model")
    made = adapter(tmp_path / "adapter", {"rank_pattern": {"q_proj": 24}}, **pair(Q))
    assert made.rank == 24  # of the engines that serve it
    with pytest.raises(ModelError, match=r"learner\.lora trains one rank"):
        settings_of(made, path, LoraSettings())


@pytest.mark.parametrize(
    ("named", "differs"), [("org/other", True), ("org/My-Model", False), ("/elsewhere/My-Model", False), (None, False)]
)
def test_another_base_model_is_named(named: str | None, differs: bool, tmp_path: Path) -> None:
    made = adapter(tmp_path / "adapter", {"base_model_name_or_path": named}, **pair(Q))
    line = base_difference(made, "org/my-model" if named != "/elsewhere/My-Model" else "My-Model")
    assert (line is not None and "names the base model org/other, and it is used on org/my-model" in line) == differs


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "is of PEFT's type LOHA"),
        ({"use_dora": True}, "is a DoRA adapter, which vLLM does not serve"),
        ({"modules_to_save": ["embed_tokens", "lm_head"]}, "replaces the whole weights of embed_tokens, lm_head"),
        ({"bias": "all", "lora_bias": True}, r"bias=all\), .*; it trains biases of the adapter"),
        ({"init_lora_weights": "pissa_niter_4"}, "also changes the base model's weights"),
        ({"target_parameters": ["experts.down_proj"]}, "changes weights of experts"),
        ({"r": "many"}, "is no LoRA adapter in PEFT format"),
    ],
)
def test_an_adapter_that_vllm_does_not_serve_is_refused_in_one_line(config: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        adapter(tmp_path / "adapter", config, **pair(Q))
    assert "\n" not in str(caught.value)


def test_unreadable_weights_of_an_adapter_are_refused(tmp_path: Path) -> None:
    adapter(tmp_path / "bad", **pair(Q))
    (tmp_path / "bad" / "adapter_model.safetensors").write_bytes(b"none")
    with pytest.raises(ModelError, match="is no LoRA adapter in PEFT format"):
        read_adapter(tmp_path / "bad")
    (tmp_path / "bad" / "adapter_model.safetensors").rename(tmp_path / "bad" / "adapter_model.bin")
    with pytest.raises(ModelError, match="save it with safe_serialization=True"):
        read_adapter(tmp_path / "bad")
