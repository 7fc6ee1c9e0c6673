"""What vLLM's worker really holds of an adapter: it loads one with foreign keys without a word, and changes nothing."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

PEFT_PREFIX = "base_model.model."
RELATIVE_TOLERANCE = 2.0**-6  # bfloat16 rounds twice on the way, to 2^-8 each


class BoundModules:
    """Mixed into vLLM's worker (``worker_extension_cls``) and called there by ``collective_rpc``."""

    model_runner: Any

    def bound_modules(self, adapter_id: int, folder: str) -> tuple[list[str], list[str], list[str]]:
        """Names of modules: in the adapter's files, bound to weights, and bound to other weights than the files have.

        vLLM packs projections (``qkv_proj``); the names are those of the parts, as in the files.
        """
        weights = load_file(Path(folder) / "adapter_model.safetensors")
        named = sorted({module_name(key) for key in weights})
        adapters = self.model_runner.lora_manager._adapter_manager
        adapters.activate_adapter(adapter_id)  # nothing happens where it is active; others may have taken its place
        slot = adapters.lora_index_to_id.index(adapter_id)
        bound, differing = [], []
        for packed_name, layer in adapters.modules.items():
            parent, _, last = packed_name.rpartition(".")
            parts = adapters.packed_modules_mapping.get(last, [last])
            for part, stacked_a, stacked_b in zip(parts, layer.lora_a_stacked, layer.lora_b_stacked, strict=True):
                name, a, b = f"{parent}.{part}", stacked_a[slot, 0], stacked_b[slot, 0]
                if not (a.any() or b.any()):
                    continue
                bound.append(name)
                file_a = weights.get(f"{PEFT_PREFIX}{name}.lora_A.weight")
                file_b = weights.get(f"{PEFT_PREFIX}{name}.lora_B.weight")
                # vLLM's places are as wide as the highest rank, and the adapter's scale is multiplied into its B.
                if (
                    file_a is None
                    or file_b is None
                    or not (proportional(a[: len(file_a)], file_a) and proportional(b[:, : len(file_a)], file_b))
                ):
                    differing.append(name)
        return named, bound, differing


def module_name(key: str) -> str:
    """The module of a key in PEFT's files, ``base_model.model.<module>.lora_A.weight``."""
    return key.removeprefix(PEFT_PREFIX).partition(".lora_")[0]


def proportional(held: torch.Tensor, published: torch.Tensor) -> bool:
    """Whether one tensor is a multiple of another of the same shape, but for rounding to bfloat16."""
    if held.shape != published.shape:
        return False
    held, published = held.detach().cpu().float(), published.float()
    peak = int(published.abs().argmax())
    if published.flatten()[peak] == 0:
        return not held.any()
    scale = held.flatten()[peak] / published.flatten()[peak]
    return torch.allclose(held, published * scale, rtol=RELATIVE_TOLERANCE, atol=0.0)
