"""Loading of the frozen base model, and the choice of device and dtype."""

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
from learner.training.attention import attention_implementation
from learner.training.error_text import describe_error
from learner.training.gpu import Cuda, unusable_gpu
from learner.training.quantization import Quantization, quantize_base

logger = logging.getLogger(__name__)
_logged: set[tuple[str, str]] = set()  # model and repair

# Keys of config.json and tokenizer_config.json that hold local paths.
LOCAL_PATH_KEYS = (
    "_name_or_path",
    "name_or_path",
    "auto_map",
    "tokenizer_file",
    "vocab_file",
    "merges_file",
    "special_tokens_map_file",
)
PATH_PREFIXES = ("/", "./", "../", "~")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Device and dtype of the learner's computation."""

    use_cpu: bool
    dtype: torch.dtype  # of the frozen weights and the forward pass; the adapter itself is float32


class TorchCuda:
    """The installed torch, as ``Cuda``."""

    @property
    def version(self) -> str | None:
        """CUDA version that torch is built for; None for a CPU build."""
        return torch.version.cuda

    def init(self) -> None:
        """Initialize CUDA; raises RuntimeError with torch's reason."""
        torch.cuda.init()  # type: ignore[no-untyped-call]

    def name(self) -> str:
        """Name of the GPU."""
        return torch.cuda.get_device_name()

    def capability(self) -> tuple[int, int]:
        """Compute capability of the GPU."""
        return torch.cuda.get_device_capability()


TORCH_CUDA = TorchCuda()


def choose_device(settings: LearnerSettings, cuda: Cuda = TORCH_CUDA) -> Device:
    """Choose the CPU if no GPU is reserved. Raises ModelError, with the cause, if the reserved GPU cannot be used."""
    use_cpu = settings.gpus == 0
    if not use_cpu and (reason := unusable_gpu(cuda)):
        raise ModelError(f"learner.gpus={settings.gpus:g}: {reason}, or set learner.gpus=0 to train on the CPU")
    return Device(use_cpu=use_cpu, dtype=getattr(torch, settings.computed_dtype))


def load_model(
    name: str,
    device: Device,
    *,
    keep_dropout: bool = True,
    weights_dtype: torch.dtype | None = None,
    quantization: Quantization | None = None,
) -> tuple[Any, Any]:
    """Load the causal language model ``name`` (folder or Hugging Face id) and its tokenizer.

    ``weights_dtype``: dtype of the weights; None: that of the computation. ``quantization``: precision of the decoder's linear
    layers; None: that of the weights. With ``keep_dropout=False`` the base model's dropout is off, so that training computes the
    same as sampling. A generation config that transformers would refuse to save later is repaired, with a warning in the log.
    Raises ModelError, with a message of one line.
    """
    source = folder_or_id(name)
    generation = generation_config(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        config = AutoConfig.from_pretrained(source)
        if not keep_dropout:
            disable_dropout(config)
            disable_dropout(config.get_text_config())
        model, loading = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=weights_dtype or device.dtype,
            attn_implementation=attention_implementation(config, use_cpu=device.use_cpu, dtype=device.dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # the boundary to the code of each architecture, which has errors of its own
        raise ModelError(f"model {name!r} cannot be loaded: {describe_error(error)}") from error
    # transformers initializes weights that are missing, or of another size, at random.
    if random_keys := [*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])]:
        names = ", ".join(sorted(random_keys)[:3])
        raise ModelError(
            f"model {name!r} cannot be loaded: its weights do not fit its config.json, {len(random_keys)} are missing or of "
            f"another size ({names})"
        )
    if quantization is not None:
        place = torch.device("cpu") if device.use_cpu else torch.device("cuda", torch.cuda.current_device())
        quantize_base(model, quantization, device=place, dtype=device.dtype)
    if generation:
        model.generation_config = generation
    return model, tokenizer


def disable_dropout(config: Any) -> None:
    """Set each dropout of a configuration to 0: ``attention_dropout``, ``resid_pdrop``, ...

    The sampler has no dropout. A learner with dropout would compute other probabilities for the same weights, at random.
    """
    for name, value in config.to_dict().items():
        if isinstance(value, float) and name.endswith(("dropout", "pdrop")):
            setattr(config, name, 0.0)
        elif name == "output_router_logits":  # only for the load-balancing loss of routers, which are frozen
            setattr(config, name, False)


def has_plain_kv_cache(model: Any) -> bool:
    """Return True if the model caches only keys and values, so that completions can share the cache of their prompt.

    Layers with linear attention cache a state instead.
    """
    cache = DynamicCache(config=model.config.get_text_config())
    return all(isinstance(layer, DynamicLayer) for layer in cache.layers)


def check_saveable(name: str) -> None:
    """Raise ModelError, with a message of one line, if a model derived from this one could not be saved."""
    config = generation_config(name)
    try:
        with tempfile.TemporaryDirectory(prefix="caravan-") as folder:
            AutoTokenizer.from_pretrained(folder_or_id(name)).save_pretrained(folder)
            AutoConfig.from_pretrained(folder_or_id(name)).save_pretrained(folder)
            if config:
                config.save_pretrained(folder)
    except Exception as error:  # the boundary to the code of each architecture, which has errors of its own
        raise ModelError(f"a model derived from {name!r} could not be saved: {describe_error(error)}") from error


def remove_local_paths(folder: Path) -> None:
    """Remove the paths of this machine from the configuration of a saved model or tokenizer.

    ``auto_map`` is removed too: the custom code that it names is not saved, and the model was loaded without it.
    """
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        if path.is_file():
            settings = json.loads(path.read_text(encoding="utf-8"))
            kept = {key: value for key, value in settings.items() if key not in LOCAL_PATH_KEYS}
            if kept != settings:
                path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def folder_or_id(name: str) -> str:
    """Return a model's name as transformers accepts it; raises ModelError for a missing folder."""
    if name.startswith(PATH_PREFIXES) and not Path(name).expanduser().is_dir():
        raise ModelError(f"model {name!r}: there is no such folder")
    return str(Path(name).expanduser()) if name.startswith("~") else name


def generation_config(name: str) -> GenerationConfig | None:
    """Load the model's ``generation_config.json``, repaired if transformers would refuse to save it; None if there is none.

    Raises ModelError if it cannot be read, because it may define end-of-text tokens.
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
            raise ValueError(f"it holds a {type(written).__name__} instead of an object")
        for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
            _check_token_ids(key, written.get(key))
        config = GenerationConfig.from_dict(written)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelError(
            f"model {name!r}: its {GENERATION_CONFIG_NAME} cannot be used ({describe_error(error)}); correct it, or delete it"
        ) from error
    changes = _make_saveable(config, do_sample=written.get("do_sample"))
    if changes and (name, changes) not in _logged:  # a command loads a model several times
        _logged.add((name, changes))
        logger.warning(
            "model %r: repaired its %s, which transformers refuses to save: %s", name, GENERATION_CONFIG_NAME, changes
        )
    return config


def _check_token_ids(key: str, value: Any) -> None:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
        raise ValueError(f"{key} is {value!r}, not a token id")


def _make_saveable(config: GenerationConfig, *, do_sample: bool | None) -> str:
    """Change settings that transformers refuses to save, and return a description of the changes; empty for none.

    ``do_sample`` is None if the file does not set it. Settings such as a temperature are then kept by setting it to True.
    """
    if not _refused_settings(config):
        return ""
    config_that_samples = GenerationConfig.from_dict(config.to_dict() | {"do_sample": True})
    if do_sample is None and not _refused_settings(config_that_samples):
        config.do_sample = True
        return "do_sample=true is set"
    defaults = GenerationConfig()
    dropped = []
    while names := [name for name in _refused_settings(config) if name not in dropped]:
        for name in names:
            dropped.append(name)
            setattr(config, name, getattr(defaults, name))
    return f"{', '.join(dropped)} removed"


def _refused_settings(config: GenerationConfig) -> list[str]:
    """Names of the settings that transformers refuses to save."""
    try:
        config.validate(strict=True)
    except ValueError as error:
        return re.findall(r"^- `(\w+)`", str(error), re.MULTILINE)
    return []
