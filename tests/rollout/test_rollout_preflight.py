"""vLLM's refusals by a model's configuration, without weights or an engine."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ModelError
from rollout.preflight import Preflight, preflight
from rollout.settings import RolloutSettings

pytestmark = pytest.mark.slow  # vLLM is imported


def made(folder: Path, kind: str, **changes: Any) -> str:
    """A folder with a configuration and the name of a file of weights, which nobody opens."""
    from transformers import AutoConfig

    size = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind, vocab_size=100, **size | changes)
    config.save_pretrained(folder)
    (folder / "pytorch_model.bin").touch()
    return str(folder)


def inspect(model: str, **changes: Any) -> None:
    from rollout.engine import inspect_model

    settings = RolloutSettings(max_prompt_tokens=96, max_completion_tokens=32, enforce_eager=True, **changes)
    inspect_model(settings, model=model, lora_rank=8, max_staleness=1)


def refusal(model: str, **changes: Any) -> str:
    with pytest.raises(ModelError) as refused:
        inspect(model, **changes)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_model_that_is_served_passes(tmp_path: Path) -> None:
    inspect(made(tmp_path, "llama", architectures=["LlamaForCausalLM"]))


def test_an_architecture_without_lora_is_refused_in_modes_with_lora(tmp_path: Path) -> None:
    model = made(tmp_path, "stablelm", architectures=["StableLmForCausalLM"])
    assert "does not support LoRA yet" in refusal(model)
    inspect(model, weight_sync_mode="merged")


def test_an_architecture_that_vllm_no_longer_has(tmp_path: Path) -> None:
    model = made(tmp_path, "llama", architectures=["MPTForCausalLM"])
    assert "is not supported anymore" in refusal(model)


def test_heads_that_the_attention_of_the_cpu_lacks(tmp_path: Path) -> None:
    model = made(tmp_path, "llama", architectures=["LlamaForCausalLM"], head_dim=16)
    assert "attention heads of 16 dimensions" in refusal(model)


def answer(model: str, **changes: Any) -> str | None:
    async def ask() -> str | None:
        settings = RolloutSettings(max_prompt_tokens=96, max_completion_tokens=32, **changes)
        async with preflight(settings, model=model, lora_rank=8, max_staleness=1) as inspection:
            return await inspection.wait()

    return asyncio.run(ask())


def test_the_process_returns_the_refusal(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="attention heads of 16 dimensions"):
        answer(made(tmp_path, "llama", architectures=["LlamaForCausalLM"], head_dim=16))


def test_a_process_that_fails_reports_it_and_refuses_nothing() -> None:
    async def ask() -> str | None:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "echo broken; exit 3", stdout=asyncio.subprocess.PIPE
        )
        return await Preflight(process).wait()

    assert asyncio.run(ask()) == "its process ended with exit code 3: broken"


def test_gpu_samplers_are_not_checked() -> None:
    assert answer("/no/such/model", gpus_per_sampler=1) is None
