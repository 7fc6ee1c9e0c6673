"""A learner on a quantized base model: real bitsandbytes and TRL on the CPU, on the built-in tiny model's weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load

from cluster.errors import ModelError
from learner.settings import LearnerSettings
from tests.learner.factories import group
from tests.learner.scoring import sampled_by

pytestmark = pytest.mark.slow

# Largest relative error of a layer's outputs, and bytes per weight.
KINDS = {"nf4": (0.15, 0.6), "fp8": (0.05, 1.1)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_layer_is_close_to_its_layer_and_passes_gradients(
    kind: Literal["nf4", "fp8"], dtype: torch.dtype
) -> None:
    from learner.training.quantization import Float8Linear, nf4_linear

    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 128)
    make = nf4_linear if kind == "nf4" else Float8Linear
    quantized: torch.nn.Module = make(layer, torch.device("cpu"), dtype)
    inputs = torch.randn(2, 8, 256)
    results = []
    for each in (layer, quantized):
        given = inputs.clone().to(dtype if each is quantized else torch.float32).requires_grad_()
        outputs = each(given)
        outputs.float().square().sum().backward()
        assert given.grad is not None
        results.append((outputs.detach().float(), given.grad.float()))
    bound, bytes_per_number = KINDS[kind]
    for exact, found in zip(*results, strict=True):
        assert (exact - found).norm() / exact.norm() < bound
    weight = quantized.get_parameter("weight")
    assert not weight.requires_grad
    assert weight.numel() * weight.element_size() <= bytes_per_number * layer.weight.numel()


@pytest.mark.parametrize("kind", KINDS)
def test_a_learner_on_a_quantized_base_trains_a_float32_adapter_and_resumes(
    kind: str, make_learner: Callable[..., Any], model_folder: Path
) -> None:
    groups = [sampled_by(model_folder, group([1.0, 0.0, 0.5], seed=seed)) for seed in range(2)]
    planned = {"probe_ids": ((1, 5, 9, 3, 7),)}
    learner = make_learner(quantization=kind, planned=planned, kl_coefficient=0.01, learning_rate=1e-3)
    assert f"base model in {kind}" in learner.describe()
    policy, report = learner.step(groups)
    assert report.metrics["grad_norm"] > 0
    weights = load(policy.adapter["adapter_model.safetensors"])
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert len(weights) == 2 * 2 * 7  # two matrices of seven modules in two layers
    assert (
        learner.base_probes()[0].logprobs
        != make_learner(planned=planned, checkpoints="plain").base_probes()[0].logprobs
    )
    learner.save_checkpoint()
    again, _ = learner.step(groups)
    resumed, _ = make_learner(quantization=kind, planned=planned, kl_coefficient=0.01, learning_rate=1e-3).step(groups)
    assert resumed.adapter == again.adapter  # bit for bit


def test_a_model_of_transposed_weights_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from learner.training.quantization import quantize_base

    model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=1, n_head=4, vocab_size=100))
    with pytest.raises(ModelError, match="no plain linear layers"):
        quantize_base(model, "fp8", device=torch.device("cpu"), dtype=torch.float32)


def test_sharding_a_quantized_base_is_refused() -> None:
    with pytest.raises(ValueError, match="shards plain weights only"):
        LearnerSettings(quantization="nf4", shard_base=True, num_ranks=2)
