"""The frozen model under the adapter, and where it lives: the one place that tells CPU from GPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.cache_utils import DynamicLayer

from cluster.types import ModelError
from learner.reason import reason
from learner.settings import LearnerSettings

LOOKS_LIKE_A_PATH = ("/", "./", "../", "~")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the learner computes, and in which precision."""

    use_cpu: bool
    dtype: torch.dtype  # of the frozen weights and the forward pass; the adapter itself is float32


def choose_place(settings: LearnerSettings) -> Place:
    """CPU where no GPU is reserved. Raises ModelError where one is reserved that torch does not see."""
    use_cpu = settings.gpus == 0
    if not use_cpu and not torch.cuda.is_available():
        raise ModelError(
            f"learner.gpus={settings.gpus}, but torch {torch.__version__} sees no GPU here; "
            "set learner.gpus=0 to learn on the CPU, or install torch's CUDA build"
        )
    named = {"auto": torch.float32 if use_cpu else torch.bfloat16, "float32": torch.float32, "bfloat16": torch.bfloat16}
    return Place(use_cpu=use_cpu, dtype=named[settings.dtype])


def load_model(name: str, place: Place, *, noise: bool = True) -> tuple[Any, Any]:
    """The causal language model ``name`` (folder or Hugging Face id) and its tokenizer; raises ModelError in one line.

    Without ``noise`` it has no dropout of its own, so that it computes the same in training as in sampling.
    """
    if name.startswith(LOOKS_LIKE_A_PATH) and not Path(name).expanduser().is_dir():
        raise ModelError(f"model {name!r}: there is no such folder")
    source = str(Path(name).expanduser()) if name.startswith("~") else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        config = AutoConfig.from_pretrained(source)
        if not noise:
            silence(config)
            silence(config.get_text_config())
        model = AutoModelForCausalLM.from_pretrained(source, config=config, dtype=place.dtype)
    # transformers reports what it cannot find, fetch, read or understand as one of these.
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"model {name!r} cannot be loaded: {reason(error)}") from error
    return model, tokenizer


def silence(config: Any) -> None:
    """Set each dropout of a configuration to 0: ``attention_dropout``, ``resid_pdrop``, ...

    The ratio to the sampler, which has none of it, would be one of noise.
    """
    for name, value in config.to_dict().items():
        if isinstance(value, float) and name.endswith(("dropout", "pdrop")):
            setattr(config, name, 0.0)
        elif name == "output_router_logits":  # for a loss that balances experts, whose routers are frozen here
            setattr(config, name, False)


def keeps_keys_and_values(model: Any) -> bool:
    """Whether a model remembers a prompt by keys and values alone, which completions can share; linear attention has states."""
    cache = DynamicCache(config=model.config.get_text_config())
    return all(isinstance(layer, DynamicLayer) for layer in cache.layers)
