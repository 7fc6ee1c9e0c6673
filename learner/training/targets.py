"""LoRA target modules of a model, resolved and checked on torch's meta device, before any weight is loaded."""

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from cluster.errors import ConfigError, ModelError
from learner.adapter_folder import PREFIX, AdapterFolder
from learner.lora_settings import ALL_LINEAR, LoraSettings
from learner.training.adapter import base_name
from learner.training.decoder import linear_names
from learner.training.error_text import describe_error
from learner.training.model import folder_or_id, generation_config

# Linear modules that route tokens to experts; an adapter on them would change which experts compute.
EXPERTS = ("experts.", "block_sparse_moe.")  # parts of the names of experts' weights
ROUTERS = ("gate", "router", "shared_expert_gate")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSize:
    """Number of weights that an adapter adds to a model."""

    targets: tuple[str, ...]  # module names, without their paths if the names are unambiguous
    rank: int
    num_modules: int
    num_trained: int  # weights of the adapter
    num_parameters: int  # of the model
    transposed: tuple[str, ...] = ()  # targets whose weights are stored as [in, out]

    def __str__(self) -> str:
        """Return one line for the log."""
        return (
            f"trained weights: {self.num_trained:,}, {self.num_trained / self.num_parameters:.2%} of the model's "
            f"{self.num_parameters:,}: an adapter of rank {self.rank} on {self.num_modules} modules ({', '.join(self.targets)})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FullSize:
    """Number of weights of a model that are all trained."""

    num_parameters: int
    has_experts: bool
    targets: tuple[str, ...] = ()  # no module has an adapter

    def __str__(self) -> str:
        """Return one line for the log."""
        return f"trained weights: all {self.num_parameters:,} of the model"


def full_size(model: str) -> FullSize:
    """Return the size of a model whose weights are all trained; raises ModelError."""
    on_meta = meta_model(model)
    return FullSize(
        num_parameters=num_weights(on_meta),
        has_experts=any(f".{part}" in name for name, _ in on_meta.named_parameters() for part in EXPERTS),
    )


def meta_model(model: str) -> Any:
    """Build the model ``model`` (folder or Hugging Face id) without its weights; raises ModelError if it cannot be trained."""
    source = folder_or_id(model)
    generation_config(model)  # raises for an unusable one, before the weights are loaded
    try:
        config = AutoConfig.from_pretrained(source)
        if getattr(config, "quantization_config", None):
            raise ModelError(
                f"model {model!r} is quantized (quantization_config in its config.json): adapters are trained on "
                "plain weights, and merged into them; use the model that it was quantized from"
            )
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except ModelError:
        raise
    except Exception as error:  # the boundary to the code of each architecture, which has errors of its own
        raise ModelError(f"model {model!r} cannot be built from its configuration: {describe_error(error)}") from error


def adapter_size(model: str, lora: LoraSettings) -> AdapterSize:
    """Return the size of the adapter of a run; raises ConfigError for targets that do not fit the model, and ModelError."""
    on_meta = meta_model(model)
    wanted = target_names(on_meta, lora, model)
    modules = [on_meta.get_submodule(name) for name in wanted]
    return AdapterSize(
        targets=tuple(short_names(on_meta, wanted)),
        rank=lora.r,
        num_modules=len(modules),
        num_trained=sum(lora.r * sum(module.weight.shape) for module in modules),
        num_parameters=num_weights(on_meta),
        transposed=tuple(
            sorted({name.rpartition(".")[2] for name in wanted if isinstance(on_meta.get_submodule(name), Conv1D)})
        ),
    )


def num_weights(model: Any) -> int:
    """Number of parameters of a model; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def target_names(model: Any, lora: LoraSettings, model_name: str) -> list[str]:
    """Return the full names of the modules that ``lora`` selects; ``model_name`` is for error messages.

    Only linear modules of the text decoder, without its output head, can be selected: vLLM serves LoRA for no others. Raises
    ConfigError, in one line, if a name matches none of them.
    """
    experts = _expert_names(model)
    possible = [name for name in linear_names(model) if _leaf(name) not in experts]
    if lora.target_modules == (ALL_LINEAR,):
        linear = [name for name in possible if _leaf(name) not in ROUTERS]
        if not linear:
            raise ConfigError(
                f"learner.lora.target_modules: model {model_name!r} has no linear modules that support LoRA"
            )
        return linear
    by_target = {target: [name for name in possible if _matches(name, target)] for target in lora.target_modules}
    if missing := [target for target, names in by_target.items() if not names]:
        raise ConfigError(_refusal(model, missing, possible, model_name))
    wanted = {name for names in by_target.values() for name in names}
    return [name for name in possible if name in wanted]


def short_names(model: Any, wanted: Sequence[str]) -> list[str]:
    """Return the distinct last parts of the names if PEFT matches the same modules with them, else the full names."""
    leaves = list(dict.fromkeys(map(_leaf, wanted)))
    matched = {name for name, _ in model.named_modules() if any(_matches(name, leaf) for leaf in leaves)}
    return leaves if matched == set(wanted) else list(wanted)


def check_adapter(model: str, adapter: AdapterFolder) -> None:
    """Raise ModelError, in one line, if the weights of an adapter do not fit the model."""
    _check_fits(meta_model(model), model, adapter)


def settings_of(adapter: AdapterFolder, model: str, lora: LoraSettings) -> dict[str, Any]:
    """Return the values of ``learner.lora`` that describe an adapter: rank, alpha, scale and target modules.

    Raises ModelError for an adapter that cannot be trained further on this model, ConfigError if ``lora`` sets other values.
    """
    if adapter.config.get("rank_pattern") or adapter.config.get("alpha_pattern"):
        raise ModelError(
            f"the adapter {adapter.path} has ranks or alphas of its own for some modules (rank_pattern, alpha_pattern), and "
            "learner.lora trains one rank and one alpha: merge it into its base model with PEFT, and train a new adapter"
        )
    on_meta = meta_model(model)
    _check_fits(on_meta, model, adapter)
    values = {
        "r": adapter.config["r"],
        "alpha": adapter.config["lora_alpha"],
        "use_rslora": bool(adapter.config.get("use_rslora")),
        "target_modules": tuple(
            short_names(on_meta, [name for name in linear_names(on_meta) if name in adapter.modules])
        ),
    }
    for name, value in values.items():
        given = getattr(lora, name)
        if name not in lora.model_fields_set or given == value:
            continue
        if name == "target_modules" and set(target_names(on_meta, lora, model)) == set(adapter.modules):
            continue
        shown = ",".join(given) if isinstance(given, tuple) else given
        of_adapter = ",".join(value) if isinstance(value, tuple) else value
        raise ConfigError(
            f"learner.lora.{name}={shown} contradicts the adapter that training starts from, {adapter.path}: set "
            f"learner.lora.{name}={of_adapter}, or remove it"
        )
    return values


def base_difference(adapter: AdapterFolder, model: str) -> str | None:
    """Return a line about an adapter that names another base model; None if it names none or this one."""
    if adapter.base is None or base_name(adapter.base).lower() == base_name(model).lower():
        return None
    return (
        f"the adapter {adapter.path} names the base model {adapter.base}, and it is used on {base_name(model)}: its weights fit, "
        "and only you know whether both are the same model"
    )


def _check_fits(on_meta: Any, model: str, adapter: AdapterFolder) -> None:
    possible = set(linear_names(on_meta))
    for key, shape in adapter.shapes.items():
        if cause := _misfit(on_meta, possible, key, shape):
            named = f" (it names {adapter.base} as its base model)" if adapter.base else ""
            raise ModelError(f"the adapter {adapter.path} does not fit model {model!r}: {cause}{named}")


def _misfit(model: Any, possible: Collection[str], key: str, shape: Sequence[int]) -> str | None:
    """Return the reason why a weight of an adapter does not fit a model; None if it fits."""
    module, _, part = key.removeprefix(PREFIX).partition(".lora_")
    if part not in ("A.weight", "B.weight"):
        return f"it holds {key}, and vLLM serves only LoRA matrices of linear modules"
    if module not in possible:
        return f"it changes {module}, which the model's decoder does not have; use the model that it was trained on"
    linear = model.get_submodule(module)
    outputs, inputs = reversed(linear.weight.shape) if isinstance(linear, Conv1D) else linear.weight.shape
    side, has, needs = ("inputs", shape[1], inputs) if part.startswith("A") else ("outputs", shape[0], outputs)
    if has != needs:
        return f"its {module} has {has} {side}, and the model's has {needs}; use the model that it was trained on"
    return None


def _expert_names(model: Any) -> Collection[str]:
    """Last parts of names that PEFT treats as the experts of a model, even if other modules have the same name.

    PEFT adapts the experts then, with another rank; vLLM serves such adapters only on some GPUs.
    """
    pattern = _MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)
    names: Collection[str] = _MOE_TARGET_MODULE_MAPPING.get(pattern, {}).keys()
    return names


def _refusal(model: Any, missing: Sequence[str], possible: Iterable[str], model_name: str) -> str:
    leaves = list(dict.fromkeys(map(_leaf, possible)))
    experts = _expert_names(model)
    others = {
        target: next((name for name, _ in model.named_modules() if _matches(name, target)), None) for target in missing
    }
    weights = {
        target: next((name for name, _ in model.named_parameters() if _matches(name, target)), None)
        for target in missing
    }
    causes = [
        f"{target!r} is the weight {weights[target]}, not a module, and vLLM serves no adapters of single weights here"
        if name is None and weights[target]
        else f"{target!r} matches no module"
        if name is None
        else f"{target!r} means the experts in PEFT, and vLLM serves no adapters of experts here"
        if _leaf(target) in experts
        else f"{target!r} matches {name}, which is not a linear module of the decoder"
        for target, name in others.items()
    ]
    near = [close for target in missing for close in difflib.get_close_matches(target, leaves, n=1)]
    hint = f" Did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
    return (
        f"learner.lora.target_modules: {', '.join(causes)} of model {model_name!r}.{hint} Its linear modules are "
        f"{', '.join(leaves)}; {ALL_LINEAR} selects all of them"
    )


def _matches(name: str, target: str) -> bool:
    """Return True if PEFT matches a module with a target name."""
    return name == target or name.endswith(f".{target}")


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
