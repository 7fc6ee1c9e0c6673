"""One-line errors of engines that do not start, even if the cause is in another process."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cluster.errors import ModelError
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from tests.model_families import make_model

pytestmark = pytest.mark.slow


def refusal(model: str, **changes: Any) -> str:
    """Return the error message of a sampler that does not start."""
    settings = {"max_prompt_tokens": 96, "max_completion_tokens": 32, "enforce_eager": True, "kv_cache_gib": 0.1}
    sampler = Sampler(
        RolloutSettings(**settings | changes), model=model, lora_rank=8, max_staleness=1, pool_id=uuid4().hex
    )

    async def start() -> None:
        try:
            await sampler.start()
        finally:
            await sampler.shutdown()

    with pytest.raises(ModelError) as refused:
        asyncio.run(start())
    assert "\n" not in str(refused.value)
    assert "root cause" not in str(refused.value)
    return str(refused.value)


def test_an_architecture_without_lora_in_vllm_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "stablelm")
    assert "StablelmForCausalLM does not support LoRA yet" in refusal(model, weight_sync_mode="versions")


def test_a_cache_that_is_too_small_for_a_request_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama")
    assert "memory for the cache blocks" in refusal(model, kv_cache_gib=0.00001)


def test_a_head_size_that_cpu_attention_does_not_support_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama", head_dim=16)
    assert "attention heads of 16 dimensions" in refusal(model)
