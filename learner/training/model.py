"""The frozen model under the adapter, and where it lives: the one place that tells CPU from GPU."""

import json
import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer
from transformers.utils import GENERATION_CONFIG_NAME, cached_file

from cluster.errors import ModelError
from learner.settings import LearnerSettings
from learner.training.error_text import describe_error

logger = logging.getLogger(__name__)
_told: set[tuple[str, str]] = set()  # of which model, and what

# Keys of config.json and tokenizer_config.json that say where something lay.
PLACES = (
    "_name_or_path",
    "name_or_path",
    "auto_map",
    "tokenizer_file",
    "vocab_file",
    "merges_file",
    "special_tokens_map_file",
)
LOOKS_LIKE_A_PATH = ("/", "./", "../", "~")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where the learner computes, and in which precision."""

    use_cpu: bool
    dtype: torch.dtype  # of the frozen weights and the forward pass; the adapter itself is float32


def choose_device(settings: LearnerSettings) -> Device:
    """CPU where no GPU is reserved. Raises ModelError where one is reserved that torch does not see."""
    use_cpu = settings.gpus == 0
    if not use_cpu and not torch.cuda.is_available():
        raise ModelError(
            f"learner.gpus={settings.gpus}, but torch {torch.__version__} sees no GPU here; "
            "set learner.gpus=0 to learn on the CPU, or install torch's CUDA build"
        )
    named = {"auto": torch.float32 if use_cpu else torch.bfloat16, "float32": torch.float32, "bfloat16": torch.bfloat16}
    return Device(use_cpu=use_cpu, dtype=named[settings.dtype])


def load_model(name: str, place: Device, *, noise: bool = True) -> tuple[Any, Any]:
    """The causal language model ``name`` (folder or Hugging Face id) and its tokenizer; raises ModelError in one line.

    Without ``noise`` it has no dropout of its own, so that it computes the same in training as in sampling. What transformers
    would refuse to save later is repaired, with a warning in the log.
    """
    source = folder_or_id(name)
    generation = generation_config(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        config = AutoConfig.from_pretrained(source)
        if not noise:
            silence(config)
            silence(config.get_text_config())
        # Gemma 2 caps its attention's logits, which transformers' default, sdpa, passes over without a word.
        capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
        model, found = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=place.dtype,
            attn_implementation="eager" if capped else None,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # the boundary to the code of each architecture, which has errors of its own
        raise ModelError(f"model {name!r} cannot be loaded: {describe_error(error)}") from error
    # transformers would make up what is missing, or of another size, at random.
    if made_up := [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]:
        names = ", ".join(sorted(made_up)[:3])
        raise ModelError(
            f"model {name!r} cannot be loaded: its weights do not fit its config.json, {len(made_up)} are missing or of "
            f"another size ({names})"
        )
    if generation:
        model.generation_config = generation
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


def check_saveable(name: str) -> None:
    """Raise ModelError, in one line, where a model made of this one could not be saved with its configuration and tokenizer."""
    config = generation_config(name)
    try:
        with tempfile.TemporaryDirectory(prefix="caravan-") as folder:
            AutoTokenizer.from_pretrained(folder_or_id(name)).save_pretrained(folder)
            AutoConfig.from_pretrained(folder_or_id(name)).save_pretrained(folder)
            if config:
                config.save_pretrained(folder)
    except Exception as error:  # the boundary to the code of each architecture, which has errors of its own
        raise ModelError(f"a model made of {name!r} could not be saved: {describe_error(error)}") from error


def remove_local_paths(folder: Path) -> None:
    """Take out of a saved model's or tokenizer's settings where on this machine it was loaded from.

    Code of its own (``auto_map``) is not saved beside it, nor needed: the model was loaded without.
    """
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            settings = json.loads(path.read_text(encoding="utf-8"))
            kept = {key: value for key, value in settings.items() if key not in PLACES}
            if kept != settings:
                path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def folder_or_id(name: str) -> str:
    """A model's name as transformers takes it; raises ModelError for a folder that is not there."""
    if name.startswith(LOOKS_LIKE_A_PATH) and not Path(name).expanduser().is_dir():
        raise ModelError(f"model {name!r}: there is no such folder")
    return str(Path(name).expanduser()) if name.startswith("~") else name


def generation_config(name: str) -> GenerationConfig | None:
    """The model's ``generation_config.json``, repaired where transformers would refuse to save it; None where it has none.

    Raises ModelError where it cannot be read: to go on without it would be to go on without its end-of-text tokens.
    """
    path = cached_file(
        folder_or_id(name),
        GENERATION_CONFIG_NAME,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return None
    try:
        written = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(written, dict):
            raise ValueError(f"it holds a {type(written).__name__} in place of an object")
        for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
            _check_token_ids(key, written.get(key))
        config = GenerationConfig.from_dict(written)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(
            f"model {name!r}: its {GENERATION_CONFIG_NAME} cannot be used ({describe_error(error)}); correct it, or delete it"
        ) from error
    changes = _make_saveable(config, samples=written.get("do_sample"))
    if changes and (name, changes) not in _told:  # a command loads a model several times
        _told.add((name, changes))
        logger.warning(
            "model %r: its %s is repaired, for it could not be saved: %s", name, GENERATION_CONFIG_NAME, changes
        )
    return config


def _check_token_ids(key: str, value: Any) -> None:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
        raise ValueError(f"{key} is {value!r}, no token id")


def _make_saveable(config: GenerationConfig, *, samples: bool | None) -> str:
    """Change what is against transformers' rules, and say how; the empty text where nothing is.

    Whoever gives a temperature and does not say whether to sample means to sample.
    """
    if not _objections(config):
        return ""
    config_that_samples = GenerationConfig.from_dict(config.to_dict() | {"do_sample": True})
    if samples is None and not _objections(config_that_samples):
        config.do_sample = True
        return "do_sample=true is set"
    defaults = GenerationConfig()
    dropped = []
    while names := [name for name in _objections(config) if name not in dropped]:
        for name in names:
            dropped.append(name)
            setattr(config, name, getattr(defaults, name))
    return f"{', '.join(dropped)} left out"


def _objections(config: GenerationConfig) -> list[str]:
    """Names of the settings for which transformers refuses to save."""
    try:
        config.validate(strict=True)
    except ValueError as error:
        return re.findall(r"^- `(\w+)`", str(error), re.MULTILINE)
    return []
