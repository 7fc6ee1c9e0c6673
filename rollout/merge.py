"""Merging of adapters into a model's weights, for engines without LoRA."""

import json
import math
import re
from collections.abc import Container, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file

from cluster.errors import ModelError
from rollout.bound_weights import module_name
from rollout.model import one_line
from rollout.weight_sync import BoundAdapter

MERGED_FILE = "model.safetensors"

OF_EXPERTS = re.compile(r"\.(experts|block_sparse_moe\.(input|output)_linear)\.").search
"""Matches weights of experts. No adapter changes them and they are most of the model, so the engine keeps its own. vLLM 0.32 on
the CPU cannot reload them either: it packs them only at the first load (_setup_kernel in unquantized_fused_moe_method.py)."""


def weights_folder(model: str) -> Path:
    """Return the folder of a model's weights: the model itself, or the local copy of a hub id."""
    if Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, local_files_only=True))


def write_merged(base: Path, adapter: Mapping[str, bytes], folder: Path, dtype: str) -> None:
    """Write base weights + adapter, summed in float32 and then cast, as one safetensors file without frozen experts.

    Every version is added to the base weights, so rounding errors do not accumulate; in bfloat16, changes below 1/256 of a
    weight are lost. Raises ModelError for an adapter weight that the base does not have.
    """
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(base):
        weights |= load_file(file)
    if not weights:
        raise ModelError(
            f"{base} has no *.safetensors: rollout.weight_sync_mode=merged merges adapters into those; use versions"
        )
    added = {f"{module}.weight": delta for module, delta in deltas(adapter).items()}
    if not added.keys() <= weights.keys():
        added = as_saved(base, added, weights)
    for name, delta in added.items():
        if name not in weights or weights[name].shape != delta.shape:
            raise ModelError(
                f"the adapter trains {name.removesuffix('.weight')}, and {base} has no weight of that name and shape"
            )
        weights[name] = weights[name].float() + delta
    served = {
        name: tensor.to(getattr(torch, dtype)).contiguous() for name, tensor in weights.items() if not OF_EXPERTS(name)
    }
    save_file(served, folder / MERGED_FILE)


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


def deltas(adapter: Mapping[str, bytes]) -> Mapping[str, torch.Tensor]:
    """Return the change of each module's weight by an adapter in PEFT format, float32 ``[out, in]``."""
    try:
        config = json.loads(adapter["adapter_config.json"])
        tensors = load(adapter["adapter_model.safetensors"])
    except (KeyError, ValueError, SafetensorError) as error:
        raise ModelError(f"the adapter cannot be read: {one_line(error)}") from error
    if (
        config.get("use_dora")
        or config.get("rank_pattern")
        or config.get("alpha_pattern")
        or config.get("fan_in_fan_out")
    ):
        raise ModelError(
            "rollout.weight_sync_mode=merged merges only plain LoRA: one rank and one alpha, no DoRA; use versions"
        )
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    return {
        module_name(key): scale * (tensors[key.replace("lora_A", "lora_B")].float() @ tensors[key].float())
        for key in tensors
        if key.endswith(".lora_A.weight")
    }


def merged_modules(adapter: Mapping[str, bytes]) -> BoundAdapter:
    """Return the modules that ``write_merged`` changes: all that the adapter names, because it refuses others."""
    names = tuple(sorted({module_name(key) for key in load(adapter["adapter_model.safetensors"])}))
    return BoundAdapter(named=names, bound=names, differing=())
