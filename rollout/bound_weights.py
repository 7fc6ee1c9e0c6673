"""Adapter weights that vLLM's worker has bound: it silently ignores adapter keys that match no module."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

PEFT_PREFIX = "base_model.model."
RELATIVE_TOLERANCE = 2.0**-6  # bfloat16 rounds twice on the way, to 2^-8 each


@dataclass(frozen=True, slots=True)
class Factors:
    """The two factors of a low-rank update, A ``[r, in]`` and B ``[out, r]``; None if missing."""

    a: torch.Tensor | None
    b: torch.Tensor | None


NOTHING = Factors(None, None)


class BoundModules:
    """Mixin of vLLM's worker (``worker_extension_cls``); the engine calls it by ``collective_rpc``."""

    model_runner: Any

    def bound_modules(self, adapter_id: int, folder: str) -> tuple[list[str], list[str], list[str]]:
        """Return module names: in the adapter's files, bound to weights, and bound to other weights than the files have.

        The names are those of the files, even if vLLM renames modules or packs projections (``qkv_proj``).
        """
        manager = self.model_runner.lora_manager._adapter_manager
        published = read_factors(Path(folder) / "adapter_model.safetensors")
        # vLLM's name of a module -> that of the files.
        mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
        renamed = {vllm_name(name, mapper): name for name in published}
        manager.activate_adapter(adapter_id)  # a no-op for an active adapter; others may have replaced it
        slot = manager.lora_index_to_id.index(adapter_id)
        bound, differing = set(), set()
        for packed_name, layer in manager.modules.items():
            parent, _, last = packed_name.rpartition(".")
            parts = [
                f"{parent}.{part}" if parent else part for part in manager.packed_modules_mapping.get(last, [last])
            ]
            names = [renamed.get(part, part) for part in parts]
            for name, held, file in held_and_published(layer, slot, names, published):
                if not any(factor is not None and factor.any() for factor in (held.a, held.b)):
                    continue
                bound.add(name)
                if not matches(held, file):
                    differing.add(name)
        return sorted(published), sorted(bound), sorted(differing)

    def targets_without_lora(self, targets: Sequence[str]) -> list[str]:
        """Return the adapter targets, as last parts of names, for which no layer of vLLM's model supports LoRA."""
        manager = self.model_runner.lora_manager._adapter_manager
        last_parts = {name.rpartition(".")[2] for name in manager.modules}
        supported = {part for last in last_parts for part in (last, *manager.packed_modules_mapping.get(last, ()))}
        mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
        return [target for target in targets if vllm_name(target, mapper).rpartition(".")[2] not in supported]


def read_factors(file: Path) -> dict[str, Factors]:
    """Read the factors of each module of an adapter in PEFT format, by its name in the base model."""
    a: dict[str, torch.Tensor] = {}
    b: dict[str, torch.Tensor] = {}
    for key, tensor in load_file(file).items():
        # PEFT's names for embeddings are lora_embedding_A and lora_embedding_B.
        factors = a if "A" in key.rpartition(".lora_")[2] else b
        factors[module_name(key)] = tensor
    return {name: Factors(a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys())}


def module_name(key: str) -> str:
    """Return the module of a key in PEFT's files, ``base_model.model.<module>.lora_A.weight``."""
    return key.removeprefix(PEFT_PREFIX).partition(".lora_")[0]


def vllm_name(name: str, mapper: Any) -> str:
    """Return a module's name in vLLM's model, which renames some when it loads a checkpoint."""
    if mapper is None:
        return name
    # vLLM maps adapter keys in the same way: whole keys, only by the renames.
    mapped = mapper.get_rename_mapper()._map_name(f"{name}.lora_A.weight")
    return name if mapped is None else str(mapped).removesuffix(".lora_A.weight")


def held_and_published(
    layer: Any, slot: int, names: Sequence[str], published: Mapping[str, Factors]
) -> Iterator[tuple[str, Factors, Factors]]:
    """Yield for each part of a layer: its name, this worker's factors in a slot, and the expected factors from the files."""
    files = [published.get(name, NOTHING) for name in names]
    a, b = layer.lora_a_stacked, layer.lora_b_stacked
    if isinstance(a, tuple):  # linear layers: one pair per packed projection
        held = [Factors(each_a[slot, 0], each_b[slot, 0]) for each_a, each_b in zip(a, b, strict=True)]
        if len(names) != len(held):
            names, files = by_slices(layer, names, files)
        yield from zip(names, held, split(layer, files), strict=True)
    elif isinstance(a, torch.Tensor):  # embeddings [slot, vocabulary, r] and head [slot, 1, r, in]
        yield names[0], Factors(a[slot].T if a.dim() == 3 else a[slot, 0], b[slot, 0]), files[0]
    else:  # experts, with one tensor per projection; Caravan's adapters have none, so no weight is expected here
        for each in (*layer.w13_lora_a_stacked, *layer.w2_lora_a_stacked):
            yield names[0].partition(".experts")[0] + ".experts", Factors(each[slot], None), NOTHING


def by_slices(layer: Any, names: Sequence[str], files: Sequence[Factors]) -> tuple[list[str], list[Factors]]:
    """Return names and factors of each slice of a layer with more slices than the files have modules (``in_proj_qkvz``).

    The slices of a module share its A; its B is split. A module that the files do not have gets all remaining slices.
    """
    sizes = [int(size) for size in layer.base_layer.output_sizes]
    slice_names: list[str] = []
    slices: list[Factors] = []
    for name, file in zip(names, files, strict=True):
        rows = sum(sizes) if file.b is None else len(file.b)
        start = 0
        while start < rows and len(slices) < len(sizes):
            size = sizes[len(slices)]
            slices.append(Factors(file.a, None if file.b is None else file.b[start : start + size]))
            slice_names.append(name)
            start += size
    return slice_names, slices


def split(layer: Any, files: Sequence[Factors]) -> list[Factors]:
    """Return the factors of each part of a layer for this worker: its slices under tensor parallelism."""
    if layer.tp_size == 1:
        return list(files)
    if len(files) > 1:  # vLLM slices packed projections together, and skips missing ones
        return [
            Factors(a, b)
            for a, b in zip(
                layer.slice_lora_a([file.a for file in files]),
                layer.slice_lora_b([file.b for file in files]),
                strict=True,
            )
        ]
    (file,) = files
    if file.a is None or file.b is None:
        return [file]
    return [Factors(layer.slice_lora_a(file.a), layer.slice_lora_b(file.b))]


def matches(held: Factors, file: Factors) -> bool:
    """Return True if held factors are those of the files.

    vLLM pads the factors to the maximum rank, and multiplies the adapter's scale into B.
    """
    if held.a is None or held.b is None or file.a is None or file.b is None:
        return False
    rank = len(file.a)
    return (
        proportional(held.a[:rank], file.a)
        and proportional(held.b[:, :rank], file.b)
        and not (held.a[rank:].any() or held.b[:, rank:].any())
    )


def proportional(held: torch.Tensor, published: torch.Tensor) -> bool:
    """Return True for a positive multiple of another tensor of the same shape, up to rounding to bfloat16."""
    if held.shape != published.shape:
        return False
    held, published = held.detach().cpu().float(), published.float()
    peak = int(published.abs().argmax())
    if published.flatten()[peak] == 0:
        return not held.any()
    scale = held.flatten()[peak] / published.flatten()[peak]
    return bool(scale > 0) and torch.allclose(held, published * scale, rtol=RELATIVE_TOLERANCE, atol=0.0)
