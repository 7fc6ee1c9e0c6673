"""Adapter folders whose weights no model can use."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cluster.errors import ModelError
from learner.adapter_folder import CONFIG_FILE, WEIGHTS_FILE, read_adapter

A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight" for side in "AB")
WEIGHTS = {A: torch.ones(4, 6), B: torch.zeros(6, 4)}


def adapter(folder: Path, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> Path:
    (folder / CONFIG_FILE).write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}))
    save_file(dict(weights), folder / WEIGHTS_FILE)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_every_floating_point_type_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    read = read_adapter(adapter(tmp_path, {}, {key: weight.to(dtype) for key, weight in WEIGHTS.items()}))
    assert read.shapes == {A: (4, 6), B: (6, 4)} and read.rank == 4


@pytest.mark.parametrize(
    ("config", "weights", "message"),
    [
        ({"r": 8}, WEIGHTS, r"lora_A.weight has rank 4, and adapter_config.json says r=8"),
        ({"r": 0}, WEIGHTS, "has rank 4, and adapter_config.json says r=0"),
        ({"r": "4"}, WEIGHTS, "has r='4', which is no whole number"),
        ({}, {**WEIGHTS, B: torch.zeros(6, 3)}, r"lora_B.weight has rank 3"),
        ({}, {A: WEIGHTS[A]}, "without its lora_B"),
        ({}, {}, "holds no weights"),
        ({}, {**WEIGHTS, A: torch.full((4, 6), float("nan"))}, "not finite"),
        ({}, {**WEIGHTS, B: torch.full((6, 4), float("-inf"), dtype=torch.bfloat16)}, r"not finite.*BF16"),
        ({}, {**WEIGHTS, A: torch.ones(4, 6, dtype=torch.int32)}, r"no floating-point numbers \(I32\)"),
    ],
)
def test_weights_that_no_model_can_use_are_refused(
    config: dict[str, Any], weights: dict[str, torch.Tensor], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        read_adapter(adapter(tmp_path, config, weights))


def test_a_configuration_of_an_adapter_that_nests_too_deeply_is_refused(tmp_path: Path) -> None:
    (adapter(tmp_path, {}, WEIGHTS) / CONFIG_FILE).write_text("[" * 100_000)
    with pytest.raises(ModelError, match="is no LoRA adapter in PEFT format: maximum recursion depth"):
        read_adapter(tmp_path)
