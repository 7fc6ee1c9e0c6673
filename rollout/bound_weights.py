"""Comparison of an adapter's files with the weights that vLLM's worker has bound: vLLM silently ignores unknown adapter keys.

The comparison is exact. vLLM casts a factor, scales B and copies both into its layers; the same cast and the same product of
the published factors give the same bits. So one training step, at any learning rate, and any wrong scale are found.

It runs on the layers' own device, between two steps of the engine: the file is copied there once, each pair of factors is
compared there, and the host waits once, for a few numbers per module.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

PEFT_PREFIX = "base_model.model."


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
        published = read_factors(Path(folder), manager.device, manager.lora_config.lora_dtype)
        # vLLM's name of a module -> that of the files.
        mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
        renamed = {vllm_name(name, mapper): name for name in published}
        manager.activate_adapter(adapter_id)  # a no-op for an active adapter; others may have replaced it
        slot = manager.lora_index_to_id.index(adapter_id)
        held_in: list[tuple[str, torch.Tensor]] = []  # module and largest value, which stays on the device
        differ_in: list[tuple[str, torch.Tensor]] = []
        for packed_name, layer in manager.modules.items():
            parent, _, last = packed_name.rpartition(".")
            parts = [
                f"{parent}.{part}" if parent else part for part in manager.packed_modules_mapping.get(last, [last])
            ]
            names = [renamed.get(part, part) for part in parts]
            for name, held, file in held_and_published(layer, slot, names, published):
                held_in += [(name, largest(factor)) for factor in (held.a, held.b) if factor is not None]
                differ_in += [(name, largest(difference)) for difference in differences(held, file)]
        values = torch.stack([value for _, value in (*held_in, *differ_in)]).tolist()  # the only wait for the device
        bound = {name for (name, _), value in zip(held_in, values, strict=False) if value != 0}
        differing = {name for (name, _), value in zip(differ_in, values[len(held_in) :], strict=True) if value != 0}
        return sorted(published), sorted(bound), sorted(differing & bound)

    def targets_without_lora(self, targets: Sequence[str]) -> list[str]:
        """Return the adapter targets, as last parts of names, for which no layer of vLLM's model supports LoRA."""
        manager = self.model_runner.lora_manager._adapter_manager
        last_parts = {name.rpartition(".")[2] for name in manager.modules}
        supported = {part for last in last_parts for part in (last, *manager.packed_modules_mapping.get(last, ()))}
        mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
        return [target for target in targets if vllm_name(target, mapper).rpartition(".")[2] not in supported]


def read_factors(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, Factors]:
    """Read an adapter in PEFT format as vLLM must hold it, scaled in B; returns factors by module name in the base model."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    a: dict[str, torch.Tensor] = {}
    b: dict[str, torch.Tensor] = {}
    for key, tensor in load_file(folder / "adapter_model.safetensors", device=str(device)).items():
        name = module_name(key)
        # PEFT's names for embeddings are lora_embedding_A and lora_embedding_B.
        if "A" in key.rpartition(".lora_")[2]:
            a[name] = tensor.to(dtype)
        else:
            b[name] = tensor.to(dtype) * scale_of(
                config, name
            )  # rounded after the cast and after the product, as in vLLM
    return {name: Factors(a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys())}


def scale_of(config: Mapping[str, Any], name: str) -> float:
    """Return the scale of B A in a module, from an adapter's configuration; patterns match the end of a name, as in PEFT."""

    def value(pattern: str, default: str) -> float:
        matching = (
            number for key, number in (config.get(pattern) or {}).items() if re.match(rf"(.*\.)?({key})$", name)
        )
        return float(next(matching, config[default]))

    rank = value("rank_pattern", "r")
    return value("alpha_pattern", "lora_alpha") / (math.sqrt(rank) if config.get("use_rslora") else rank)


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
        for stacked in (*layer.w13_lora_a_stacked, *layer.w2_lora_a_stacked):
            yield names[0].partition(".experts")[0] + ".experts", Factors(stacked[slot], None), NOTHING


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


def differences(held: Factors, file: Factors) -> Iterator[torch.Tensor]:
    """Yield tensors that are all zeros if the held factors are those of the files.

    vLLM pads the factors with zeros to the maximum rank.
    """
    whole = [factor for factor in (held.a, held.b) if factor is not None]
    if held.a is None or held.b is None or file.a is None or file.b is None:
        yield from whole
        return
    rank = len(file.a)
    a, b = held.a[:rank], held.b[:, :rank]
    if a.shape != file.a.shape or b.shape != file.b.shape:
        yield from whole
        return
    yield a - file.a
    yield b - file.b
    if rank < len(held.a):
        yield held.a[rank:]
        yield held.b[:, rank:]


def largest(tensor: torch.Tensor) -> torch.Tensor:
    """Return the largest absolute value without waiting for the device; NaN if the tensor has one.

    ``Tensor.any`` takes five times as long on the CPU.
    """
    return tensor.abs().amax()
