"""Choice of the attention implementation, and FlashAttention's treatment of padded and shared prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Gemma2Config, GptOssConfig, Qwen2Config
from transformers import modeling_flash_attention_utils as flash

from learner.batch.micro_batches import plan_micro_batches
from learner.batch.selection import select
from learner.batch.tensors import micro_batch_tensors
from learner.training import attention
from learner.training.attention import attention_implementation
from tests.learner.factories import TEMPERATURE, group, settings
from tests.learner.scoring import sampled_by


@pytest.mark.parametrize(
    ("config", "use_cpu", "dtype", "is_installed", "chosen"),
    [
        (Qwen2Config(), False, torch.bfloat16, True, "flash_attention_2"),
        (Qwen2Config(), False, torch.bfloat16, False, None),
        (Qwen2Config(), False, torch.float32, True, None),
        (Qwen2Config(), True, torch.bfloat16, True, None),
        (Gemma2Config(), False, torch.bfloat16, True, "eager"),
        (GptOssConfig(), False, torch.bfloat16, True, None),
    ],
    ids=["a GPU", "no package", "float32", "the CPU", "capped logits", "attention sinks"],
)
def test_flash_attention_is_used_if_it_is_installed_and_the_model_allows_it(
    config: Any,
    use_cpu: bool,
    dtype: torch.dtype,
    is_installed: bool,
    chosen: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: is_installed)
    assert attention_implementation(config, use_cpu=use_cpu, dtype=dtype) == chosen


def one_row(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention as FlashAttention computes it, aligned to the last key; ``[Q, heads, D]`` and ``[K, groups, D]``."""
    query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
    key, value = (tensor.repeat_interleave(query.size(0) // tensor.size(0), dim=0) for tensor in (key, value))
    num_queries, num_keys = query.size(1), key.size(1)
    visible = torch.ones(num_queries, num_keys, dtype=torch.bool).tril(num_keys - num_queries)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, visible, scale=scale).transpose(0, 1)


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float = 0.0, causal: bool = False
) -> Tensor:
    """Stand-in for the function of this name in flash_attn: rows without padding."""
    assert causal and dropout_p == 0
    return torch.stack([one_row(*row, scale=softmax_scale) for row in zip(q, k, v, strict=True)])


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """Stand-in for the function of this name in flash_attn: rows of different lengths one after another."""
    assert causal and dropout_p == 0
    lengths_q, lengths_k = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    assert (max_seqlen_q, max_seqlen_k) == (max(lengths_q), max(lengths_k))
    rows = zip(torch.split(q, lengths_q), torch.split(k, lengths_k), torch.split(v, lengths_k), strict=True)
    return torch.cat([one_row(*row, scale=softmax_scale) for row in rows])


@pytest.mark.slow
def test_the_learner_names_its_device_dtype_and_attention(make_learner: Callable[..., Any]) -> None:
    assert make_learner().describe() == "learner: float32 on the CPU, attention by sdpa"


@pytest.mark.slow
@pytest.mark.parametrize("shares_prompts", [True, False])
def test_a_padded_micro_batch_has_the_same_gradient_with_flash_attention(
    shares_prompts: bool, model_folder: Path, make_learner: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [sampled_by(model_folder, group([1.0, 0.0, 0.5], seed=seed), shift=0.1) for seed in range(3)]
    rows = select(groups, settings=settings(), learner_version=0, max_staleness=0, temperature=TEMPERATURE).rows
    plans = plan_micro_batches(rows, max_padded_tokens=10_000, shares_prompts=shares_prompts)
    (batch,) = micro_batch_tensors(plans, pad_token_id=2, loss_type="dapo")
    assert batch["prompt_mask"].min() == batch["completion_mask"].min() == 0
    learner = make_learner()
    learner.step(groups)  # so that neither half of the adapter is zero
    trainer = learner._trainer
    trainer.shares_prompts = shares_prompts

    def gradient() -> Tensor:
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).backward()
        return torch.cat(
            [parameter.grad.reshape(-1) for parameter in trainer.model.parameters() if parameter.grad is not None]
        )

    expected = learner._training.run(gradient)
    calls = []

    def counted(*arguments: Any, **options: Any) -> Tensor:
        calls.append(1)
        return flash_attn_varlen_func(*arguments, **options)

    process = flash._lazy_define_process_function(flash_attn_varlen_func)
    functions = (flash_attn_func, counted, None, flash._pad_input, flash._unpad_input)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_: (functions, (process, dict)))
    monkeypatch.setattr(trainer.model.config, "_attn_implementation", attention.FLASH)
    found = learner._training.run(gradient)
    # One call in each of the two layers, or one for the prompts and one for the completions if prompts are shared.
    assert len(calls) == (4 if shares_prompts else 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
