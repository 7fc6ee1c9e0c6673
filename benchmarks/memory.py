"""``make bench-memory``: memory of the learner's activations, measured and as planned by ``caravan plan``.

The real layers of a model run forward and backward in torch's fake mode: every tensor has its shape, dtype and lifetime, and no
memory. Autocast, PEFT's adapters, checkpointing and shared prompts are those of the learner. Attention and dropout are the
operations that torch uses on CUDA; its kernels for the CPU save other tensors. A peak is the sum of all tensors that exist: the
fragmentation of CUDA's allocator and the workspaces of its kernels have to be measured on a GPU.
"""

import argparse
import gc
import json
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from rich.table import Table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import output
from cluster.placement.plan.learner_memory import activation_bytes_per_token, layer_bytes_per_token
from cluster.placement.plan.model_shape import shape_from

QWEN = {
    "0.5B": (896, 4864, 14, 2, 24),
    "1.5B": (1536, 8960, 12, 2, 28),
    "7B": (3584, 18944, 28, 4, 28),
}
"""Qwen2.5-Coder: hidden size, MLP, heads, key-value heads, layers."""

DEPTHS = (2, 5)  # layers; with fewer, the end of the model is larger than its layers

SETTINGS = (
    (),
    ("lora.dropout=0",),
    ("lora.r=8",),
    ("lora.target_modules=q_proj,v_proj",),
    ("lora.dropout=0", "lora.target_modules=q_proj,v_proj"),
    ("gradient_checkpointing=true",),
    ("gradient_checkpointing=true", "lora.dropout=0"),
    ("max_completion_tokens=1024", "max_prompt_tokens=320"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Bytes of one pass over whole groups, per token."""

    saved_per_layer: float  # for the backward pass
    peak: float  # of forward and backward pass, extrapolated to all layers


def qwen(name: str, num_layers: int | None = None) -> Mapping[str, Any]:
    """``config.json`` of a Qwen2.5-Coder model, with its vocabulary cut: the output head is not measured."""
    hidden, intermediate, heads, kv_heads, layers = QWEN[name]
    return {
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_hidden_layers": num_layers or layers,
        "vocab_size": 1024,
        "tie_word_embeddings": True,
    }


def measure(name: str, config: Config, *, casts: bool = False) -> Measured:
    """Measure a model at two depths and extrapolate to its own depth; ``casts`` keeps the casts that the learner turns off."""
    few, more = DEPTHS
    small, large = (_run(qwen(name, depth), config, casts) for depth in DEPTHS)
    saved, peak = ((of_more - of_few) / (more - few) for of_few, of_more in zip(small, large, strict=True))
    return Measured(saved_per_layer=saved, peak=small[1] + (QWEN[name][-1] - few) * peak)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that exist, and their peak."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet(one.untyped_storage() for one in model.parameters())

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self._live += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self._live)
        return result

    def _free(self, size: int) -> None:
        self._live -= size


def _run(model_config: Mapping[str, Any], config: Config, casts: bool) -> tuple[float, float]:
    """Saved and peak bytes per token of one pass over a group."""
    from peft.helpers import disable_input_dtype_casting

    learner, rollout = config.learner, config.rollout
    prompt, completion, rows = rollout.max_prompt_tokens, rollout.max_completion_tokens, rollout.group_size
    model = _meta_model(model_config, config)
    with FakeTensorMode(allow_non_fake_inputs=True), _operations_of_cuda():
        _materialize(model)
        saved: dict[Any, int] = {}
        weights = {one.untyped_storage()._cdata for one in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                saved[storage._cdata] = storage.nbytes()
            return tensor

        body = model.get_base_model().model
        live = _Live(model)
        with live, disable_input_dtype_casting(model, active=not casts):  # as in GroupTrainer.train
            hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
            with torch.autocast("cpu", torch.bfloat16), hooks:
                if learner.gradient_checkpointing:
                    hidden = body(**_inputs(rows, prompt + completion), use_cache=False).last_hidden_state
                    num_tokens = rows * (prompt + completion)
                else:  # as learner.training.shared_prompt
                    first = body(**_inputs(1, prompt - 1), use_cache=True)
                    first.past_key_values.batch_select_indices(torch.zeros(rows, dtype=torch.long))
                    inputs = _inputs(rows, completion + 1, num_keys=prompt + completion)
                    hidden = body(**inputs, past_key_values=first.past_key_values, use_cache=False).last_hidden_state
                    num_tokens = prompt - 1 + rows * (completion + 1)
                    del first, inputs
            hidden.float().sum().backward()
        size = sum(saved.values()) / num_tokens, live.peak / num_tokens
    gc.collect()
    return size


def _meta_model(model_config: Mapping[str, Any], config: Config) -> Any:
    from peft import get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from learner.training.build import lora_config

    with torch.device("meta"):
        base = Qwen2ForCausalLM(Qwen2Config(**model_config))
        lora = lora_config(config.learner.lora, base, "qwen")
        model = get_peft_model(base, lora, low_cpu_mem_usage=True)
    if config.learner.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model.train()


def _materialize(model: torch.nn.Module) -> None:
    """Give the model fake tensors in the dtypes of the learner on a GPU: bfloat16, the adapter float32."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            dtype = torch.float32 if weight.requires_grad else torch.bfloat16
            empty = torch.empty(weight.shape, dtype=dtype)
            setattr(module, name, torch.nn.Parameter(empty, requires_grad=weight.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype))


def _inputs(rows: int, length: int, num_keys: int | None = None) -> dict[str, torch.Tensor]:
    shape = (rows, length)
    return {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "position_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.ones(rows, 1, length, num_keys or length, dtype=torch.bool),
    }


@contextmanager
def _operations_of_cuda() -> Iterator[None]:
    """Run attention and dropout with the operations that torch chooses on CUDA for a masked pass."""

    def attention(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        shape = (*query.shape[:3], key.shape[2])
        bias = torch.zeros(attn_mask.shape, dtype=query.dtype).masked_fill(~attn_mask, float("-inf")).expand(shape)
        kernel = torch.ops.aten._scaled_dot_product_efficient_attention
        result: torch.Tensor = kernel(query, key, value, bias, True)[0]
        return result

    def dropout(tensor: torch.Tensor, p: float = 0.5, training: bool = True, *_: Any) -> torch.Tensor:
        return torch.native_dropout(tensor, p, True)[0] if training and p else tensor

    with (
        patch.object(functional, "scaled_dot_product_attention", attention),
        patch.object(functional, "dropout", dropout),
    ):
        yield


def config_of(*settings: str) -> Config:
    """The settings of a learner on a GPU, whose micro-batch is one group."""
    config = load_config(None, ["learner.gpus=1", "gpus_per_sampler=1", *settings], environment={})
    rollout = config.rollout
    tokens = rollout.max_prompt_tokens + rollout.group_size * rollout.max_completion_tokens
    return config.changed({"learner.micro_batch_tokens": tokens})


def compare(name: str, settings: Sequence[str]) -> dict[str, Any]:
    """Return one row: measured and planned KiB per token, and the planned peak as a share of the measured peak."""
    config, shape = config_of(*settings), shape_from(qwen(name))
    measured = measure(name, config)
    peak = activation_bytes_per_token(config, shape)
    return {
        "model": name,
        "settings": " ".join(settings) or "defaults",
        "layer_measured": measured.saved_per_layer / 1024,
        "layer_planned": layer_bytes_per_token(config, shape) / 1024,
        "peak_measured": measured.peak / 1024,
        "peak_planned": peak / 1024,
        "ratio": peak / measured.peak,
    }


def main() -> None:
    """Print the table, then one line of JSON."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    rows = [compare(name, settings) for name in QWEN for settings in SETTINGS]
    table = Table(title="Activations of the learner, KiB per token: measured / planned")
    for column in ("model", "settings", "saved per layer", "peak of a pass", "plan / measured"):
        table.add_column(column)
    for row in rows:
        table.add_row(
            row["model"],
            row["settings"],
            f"{row['layer_measured']:.1f} / {row['layer_planned']:.1f}",
            f"{row['peak_measured']:.0f} / {row['peak_planned']:.0f}",
            f"{row['ratio']:.2f}",
        )
    output().print(table)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
