"""Merging of adapters into a model's weights, for engines without LoRA."""

import json
import math
import re
import shutil
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file

from cluster.errors import ModelError, ResourcesError
from rollout.bound_weights import module_name, scale_of
from rollout.model import one_line
from rollout.weight_sync import BoundAdapter

GIB = 1024**3

is_expert = re.compile(r"\.(experts|block_sparse_moe\.(input|output)_linear)\.").search
"""Matches the names of weights of experts. No adapter changes these weights and they are most of the model, so the engine keeps
its own. vLLM 0.32 on the CPU cannot reload them either: it packs them only at the first load (_setup_kernel in
unquantized_fused_moe_method.py)."""


def weights_folder(model: str) -> Path:
    """Return the folder of a model's weights: the model itself, or the local copy of a hub id."""
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, local_files_only=True))


def write_merged(base: Path, adapter: Mapping[str, bytes], folder: Path, dtype: str) -> None:
    """Write base weights + adapter, summed in float32 and then cast, without frozen experts, into files named as the base's.

    Holds the weights of one file at a time. Every version is added to the base weights, so rounding errors do not accumulate; in
    bfloat16, changes below 1/256 of a weight are lost. Raises ModelError for an adapter weight that the base does not have.
    """
    shapes = _shapes(base)
    deltas = Deltas(adapter)
    added: Mapping[str, torch.Tensor] = deltas
    added_shapes: dict[str, tuple[int, ...]] = {name: deltas.shape(name) for name in deltas}
    if not deltas.keys() <= shapes.keys():
        added = as_saved(base, deltas, shapes)
        added_shapes = {name: tuple(delta.shape) for name, delta in added.items()}
    for name, shape in added_shapes.items():
        if shapes.get(name) != shape:
            raise ModelError(
                f"the adapter trains {name.removesuffix('.weight')}, and {base} has no weight of that name and shape"
            )
    for file in weight_files(base):
        with safe_open(file, framework="pt") as weights:
            served = {
                name: _merged(weights.get_tensor(name), added.get(name)).to(getattr(torch, dtype)).contiguous()
                for name in weights.keys()  # noqa: SIM118 - no mapping
                if not is_expert(name)
            }
        if served:
            save_file(served, folder / file.name)


def require_space(base: Path, folder: Path, dtype: str, *, num_versions: int) -> None:
    """Raise ResourcesError if a number of merged versions does not fit on the disk of ``folder``, or into its shared memory."""
    size = getattr(torch, dtype).itemsize
    served = sum(size * math.prod(shape) for name, shape in _shapes(base).items() if not is_expert(name))
    require_bytes(
        folder,
        served,
        num_versions=num_versions,
        advice=", or use rollout.weight_sync_mode=versions, which writes adapters alone",
    )


def require_bytes(folder: Path, size: int, *, num_versions: int, advice: str = "") -> None:
    """Raise ResourcesError if a number of versions of ``size`` bytes does not fit on the disk of ``folder``."""
    free = shutil.disk_usage(folder).free
    if free < num_versions * size:
        raise ResourcesError(
            f"{num_versions} x {size / GIB:.1f} GiB of whole weights do not fit into {folder.parent}, which has "
            f"{free / GIB:.1f} GiB free: enlarge it (Docker: --shm-size){advice}"
        )


def weight_files(base: Path) -> list[Path]:
    """Return the weight files that transformers and vLLM read; a model folder may have the weights in other formats too."""
    index = base / "model.safetensors.index.json"
    if index.is_file():
        return sorted({base / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    whole = base / "model.safetensors"
    return [whole] if whole.is_file() else sorted(base.glob("*.safetensors"))


def as_saved(base: Path, added: Mapping[str, torch.Tensor], saved: Container[str]) -> dict[str, torch.Tensor]:
    """Convert the changes of weights from module names to the names in the model's files.

    transformers renames, splits and joins weights when it saves them. These operations are linear, so they apply to changes of
    weights too. Files of a decoder without head lack the first part of each name.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.core_model_loading import revert_weight_conversion

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    # The conversion expects all weights of a model; of weights that are joined, all parts must be present.
    converted: dict[str, torch.Tensor] = revert_weight_conversion(model, dict(added))
    prefix = f"{model.base_model_prefix}."
    bare = {name: name.removeprefix(prefix) for name in converted}
    return {bare[name] if bare[name] in saved else name: delta for name, delta in converted.items()}


class Deltas(Mapping[str, torch.Tensor]):
    """Changes of weights by an adapter in PEFT format: ``module.weight`` -> float32 ``[out, in]``, computed when it is read."""

    def __init__(self, adapter: Mapping[str, bytes]) -> None:
        """Raise ModelError for an adapter that cannot be read, or is no plain LoRA."""
        try:
            config = json.loads(adapter["adapter_config.json"])
            tensors = load(adapter["adapter_model.safetensors"])
        except (KeyError, ValueError, SafetensorError) as error:
            raise ModelError(f"the adapter cannot be read: {one_line(error)}") from error
        if config.get("use_dora") or config.get("fan_in_fan_out"):
            raise ModelError(
                "rollout.weight_sync_mode=merged merges only plain LoRA, without DoRA and into plain weights; use versions"
            )
        self._config: Mapping[str, Any] = config
        self._factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
            f"{module_name(key)}.weight": (tensors[key.replace("lora_A", "lora_B")], tensors[key])
            for key in tensors
            if key.endswith(".lora_A.weight")
        }

    def __getitem__(self, name: str) -> torch.Tensor:
        b, a = self._factors[name]
        delta: torch.Tensor = scale_of(self._config, name.removesuffix(".weight")) * (b.float() @ a.float())
        return delta

    def __iter__(self) -> Iterator[str]:
        return iter(self._factors)

    def __len__(self) -> int:
        return len(self._factors)

    def shape(self, name: str) -> tuple[int, int]:
        """Shape of a change, without computing the change."""
        b, a = self._factors[name]
        return b.shape[0], a.shape[1]


def merged_modules(adapter: Mapping[str, bytes]) -> BoundAdapter:
    """Return the modules that ``write_merged`` changes: all that the adapter names, because it refuses unknown names."""
    names = tuple(sorted({module_name(key) for key in load(adapter["adapter_model.safetensors"])}))
    return BoundAdapter(named=names, bound=names, differing=())


def _shapes(base: Path) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of each weight of a model; raises ModelError without safetensors files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in weight_files(base):
        with safe_open(file, framework="pt") as weights:
            shapes |= {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    if not shapes:
        raise ModelError(
            f"{base} has no *.safetensors: rollout.weight_sync_mode=merged merges adapters into those; use versions"
        )
    return shapes


def _merged(weight: torch.Tensor, delta: torch.Tensor | None) -> torch.Tensor:
    return weight if delta is None else weight.float() + delta
