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
            names = [f"{parent}.{part}" for part in parts]
            files = split(
                layer,
                [weights.get(f"{PEFT_PREFIX}{name}.lora_A.weight") for name in names],
                [weights.get(f"{PEFT_PREFIX}{name}.lora_B.weight") for name in names],
            )
            stacked = zip(layer.lora_a_stacked, layer.lora_b_stacked, strict=True)
            for name, (stacked_a, stacked_b), (file_a, file_b) in zip(names, stacked, files, strict=True):
                a, b = stacked_a[slot, 0], stacked_b[slot, 0]
                if not (a.any() or b.any()):
                    continue
                bound.append(name)
                # vLLM's places are as wide as the highest rank, and the adapter's scale is multiplied into its B.
                if (
                    file_a is None
                    or file_b is None
                    or not (proportional(a[: len(file_a)], file_a) and proportional(b[:, : len(file_a)], file_b))
                ):
                    differing.append(name)
        return named, bound, differing


def split(
    layer: Any, files_a: list[torch.Tensor | None], files_b: list[torch.Tensor | None]
) -> list[tuple[torch.Tensor | None, torch.Tensor | None]]:
    """A and B of each part of a layer as this worker holds them: where the model is split over several, its slices."""
    if layer.tp_size > 1:
        if len(files_a) > 1:  # vLLM slices what it has packed as a whole, and leaves out what is not there
            files_a, files_b = layer.slice_lora_a(files_a), layer.slice_lora_b(files_b)
        elif files_a[0] is not None and files_b[0] is not None:
            files_a, files_b = [layer.slice_lora_a(files_a[0])], [layer.slice_lora_b(files_b[0])]
    return list(zip(files_a, files_b, strict=True))


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
