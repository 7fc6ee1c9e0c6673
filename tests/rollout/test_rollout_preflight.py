"""vLLM's refusals by a model's configuration, without weights or an engine."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ModelError
from rollout.engine_options import OWNED, REMOVED, option_names
from rollout.environment import engine_arguments
from rollout.preflight import Preflight, preflight
from rollout.settings import RolloutSettings

pytestmark = pytest.mark.slow  # vLLM is imported


def make_folder(folder: Path, kind: str, **changes: Any) -> str:
    """Write a model folder with a configuration and an empty file of weights; return its path."""
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


def test_a_supported_model_passes(tmp_path: Path) -> None:
    inspect(make_folder(tmp_path, "llama", architectures=["LlamaForCausalLM"]))


def test_an_architecture_without_lora_is_refused_in_modes_with_lora(tmp_path: Path) -> None:
    model = make_folder(tmp_path, "stablelm", architectures=["StableLmForCausalLM"])
    assert "does not support LoRA yet" in refusal(model, weight_sync_mode="versions")
    inspect(model)


def test_an_architecture_that_vllm_no_longer_supports_is_refused(tmp_path: Path) -> None:
    model = make_folder(tmp_path, "llama", architectures=["MPTForCausalLM"])
    assert "is not supported anymore" in refusal(model)


def test_a_head_size_that_cpu_attention_does_not_support_is_refused(tmp_path: Path) -> None:
    model = make_folder(tmp_path, "llama", architectures=["LlamaForCausalLM"], head_dim=16)
    assert "attention heads of 16 dimensions" in refusal(model)


def test_options_reach_the_configuration_of_the_engine_and_vllm_checks_their_values(tmp_path: Path) -> None:
    from rollout.engine import engine_config

    model = make_folder(tmp_path, "llama", architectures=["LlamaForCausalLM"], num_key_value_heads=4)
    options = {
        "kv_cache_dtype": "fp8",
        "stream_interval": 2,
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3},
    }
    settings = RolloutSettings(max_prompt_tokens=96, max_completion_tokens=32, enforce_eager=True, engine=options)
    config = engine_config(settings, model, 8, (), 1)
    assert config.cache_config.cache_dtype == "fp8"
    assert config.scheduler_config.stream_interval == 2
    assert config.speculative_config.num_speculative_tokens == 2
    for wrong in ({"kv_cache_dtype": "fp9"}, {"quantization": "fp9"}, {"stream_interval": "often"}):
        (name,) = wrong
        assert f"and rollout.engine={wrong}: " in (refused := refusal(model, engine=wrong))
        assert "fp9" in refused or name in refused


def test_the_options_are_the_fields_of_the_engine_arguments() -> None:
    from dataclasses import fields

    from vllm.engine.arg_utils import AsyncEngineArgs

    names = {field.name for field in fields(AsyncEngineArgs)}
    assert option_names() == names
    settable = ("max_num_batched_tokens", "block_size", "enable_chunked_prefill")
    assert names >= OWNED.keys()
    assert not names & REMOVED.keys()
    arguments = engine_arguments(RolloutSettings(), "org/model", 8, ("q_proj",), 1)
    assert arguments.keys() <= {*OWNED, *settable}


def run_preflight(model: str, **changes: Any) -> str | None:
    async def wait() -> str | None:
        settings = RolloutSettings(max_prompt_tokens=96, max_completion_tokens=32, **changes)
        async with preflight(settings, model=model, lora_rank=8, max_staleness=1) as inspection:
            return await inspection.wait()

    return asyncio.run(wait())


def test_the_process_returns_the_refusal(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="attention heads of 16 dimensions"):
        run_preflight(make_folder(tmp_path, "llama", architectures=["LlamaForCausalLM"], head_dim=16))


def test_a_process_that_fails_reports_it_and_refuses_nothing() -> None:
    async def wait() -> str | None:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "echo broken; exit 3", stdout=asyncio.subprocess.PIPE
        )
        return await Preflight(process).wait()

    assert asyncio.run(wait()) == "its process ended with exit code 3: broken"


def test_gpu_samplers_are_not_checked() -> None:
    assert run_preflight("/no/such/model", gpus_per_sampler=1) is None
