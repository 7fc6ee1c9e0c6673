"""What vLLM's worker really holds of an adapter: it loads one with foreign keys without a word, and changes nothing."""

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
    """The two factors of a low-rank update, A ``[r, in]`` and B ``[out, r]``; None where there is none."""

    a: torch.Tensor | None
    b: torch.Tensor | None


NOTHING = Factors(None, None)


class BoundModules:
    """Mixed into vLLM's worker (``worker_extension_cls``) and called there by ``collective_rpc``."""

    model_runner: Any

    def bound_modules(self, adapter_id: int, folder: str) -> tuple[list[str], list[str], list[str]]:
        """Names of modules: in the adapter's files, bound to weights, and bound to other weights than the files have.

        The names are those of the files, also where vLLM has others or packs projections (``qkv_proj``).
        """
        manager = self.model_runner.lora_manager._adapter_manager
        published = read_factors(Path(folder) / "adapter_model.safetensors")
        # vLLM's name of a module -> that of the files.
        mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
        renamed = {vllm_name(name, mapper): name for name in published}
        manager.activate_adapter(adapter_id)  # nothing happens where it is active; others may have taken its place
        slot = manager.lora_index_to_id.index(adapter_id)
        bound, differing = set(), set()
        for packed_name, layer in manager.modules.items():
            parent, _, last = packed_name.rpartition(".")
            parts = [
                f"{parent}.{part}" if parent else part for part in manager.packed_modules_mapping.get(last, [last])
            ]
            names = [renamed.get(part, part) for part in parts]
            for name, held, file in compared(layer, slot, names, published):
                if not any(factor is not None and factor.any() for factor in (held.a, held.b)):
                    continue
                bound.add(name)
                if not same(held, file):
                    differing.add(name)
        return sorted(published), sorted(bound), sorted(differing)

    def targets_without_lora(self, targets: Sequence[str]) -> list[str]:
        """Those of an adapter's targets, last parts of names, for which no layer of vLLM's model takes an adapter."""
        manager = self.model_runner.lora_manager._adapter_manager
        last_parts = {name.rpartition(".")[2] for name in manager.modules}
        taken = {part for last in last_parts for part in (last, *manager.packed_modules_mapping.get(last, ()))}
        mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
        return [target for target in targets if vllm_name(target, mapper).rpartition(".")[2] not in taken]


def read_factors(file: Path) -> dict[str, Factors]:
    """Factors of each module of an adapter in PEFT format, by its name in the base model."""
    a: dict[str, torch.Tensor] = {}
    b: dict[str, torch.Tensor] = {}
    for key, tensor in load_file(file).items():
        # PEFT names those of embeddings lora_embedding_A and lora_embedding_B.
        factors = a if "A" in key.rpartition(".lora_")[2] else b
        factors[module_name(key)] = tensor
    return {name: Factors(a.get(name), b.get(name)) for name in sorted(a.keys() | b.keys())}


def module_name(key: str) -> str:
    """The module of a key in PEFT's files, ``base_model.model.<module>.lora_A.weight``."""
    return key.removeprefix(PEFT_PREFIX).partition(".lora_")[0]


def vllm_name(name: str, mapper: Any) -> str:
    """A module's name in vLLM's model, which renames some as it loads a checkpoint."""
    if mapper is None:
        return name
    # As vLLM itself maps the keys of adapters: whole keys, by the renames alone.
    mapped = mapper.get_rename_mapper()._map_name(f"{name}.lora_A.weight")
    return name if mapped is None else str(mapped).removesuffix(".lora_A.weight")


def compared(
    layer: Any, slot: int, names: Sequence[str], published: Mapping[str, Factors]
) -> Iterator[tuple[str, Factors, Factors]]:
    """Each part of a layer: its name, what this worker holds in a slot, and what it should hold by the files."""
    files = [published.get(name, NOTHING) for name in names]
    a, b = layer.lora_a_stacked, layer.lora_b_stacked
    if isinstance(a, tuple):  # linear layers: one pair for each projection that is packed into them
        held = [Factors(each_a[slot, 0], each_b[slot, 0]) for each_a, each_b in zip(a, b, strict=True)]
        if len(names) != len(held):
            names, files = by_slices(layer, names, files)
        yield from zip(names, held, split(layer, files), strict=True)
    elif isinstance(a, torch.Tensor):  # the embeddings [slot, vocabulary, r], and the head [slot, 1, r, in]
        yield names[0], Factors(a[slot].T if a.dim() == 3 else a[slot, 0], b[slot, 0]), files[0]
    else:  # experts, with one tensor for all of a kind; no adapter of ours has them, so that nothing is right here
        for each in (*layer.w13_lora_a_stacked, *layer.w2_lora_a_stacked):
            yield names[0].partition(".experts")[0] + ".experts", Factors(each[slot], None), NOTHING


def by_slices(layer: Any, names: Sequence[str], files: Sequence[Factors]) -> tuple[list[str], list[Factors]]:
    """Names and factors of each slice of a layer that has more slices than the files have modules (``in_proj_qkvz``).

    The slices of a module share its A; its B is cut. A module that the files do not have takes all slices that remain.
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
    """Factors of each part of a layer as this worker holds them: where the model is split over several, its slices."""
    if layer.tp_size == 1:
        return list(files)
    if len(files) > 1:  # vLLM slices what it has packed as a whole, and leaves out what is not there
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


def same(held: Factors, file: Factors) -> bool:
    """Whether held factors are those of the files.

    vLLM's places are as wide as the highest rank, and the adapter's scale is multiplied into its B.
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
    """Whether one tensor is a positive multiple of another of the same shape, but for rounding to bfloat16."""
    if held.shape != published.shape:
        return False
    held, published = held.detach().cpu().float(), published.float()
    peak = int(published.abs().argmax())
    if published.flatten()[peak] == 0:
        return not held.any()
    scale = held.flatten()[peak] / published.flatten()[peak]
    return bool(scale > 0) and torch.allclose(held, published * scale, rtol=RELATIVE_TOLERANCE, atol=0.0)
