"""The path of the configured model, and a check that it can be a model."""

import json
import shlex
from pathlib import Path

from cluster.config.config import Config
from cluster.config.hub import is_cached_model, unreachable_reason
from cluster.errors import ModelError

FOLDER = Path(__file__).parents[2] / "assets" / "tiny"

# Models of the hub whose ids have no owner.
WITHOUT_OWNER = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "openai-gpt", "ctrl")

ADAPTER_FILE = "adapter_config.json"


def model_path(config: Config) -> str:
    """The folder or Hugging Face id of the model, with ``tiny`` resolved."""
    if config.model.path == "tiny":
        return str(tiny_model_path())
    return config.model.path


def tiny_model_path() -> Path:
    """The folder of the shipped model; raises ModelError if it is not there."""
    if not (FOLDER / "model.safetensors").is_file():
        raise ModelError(f"the tiny model is not in {FOLDER}; build it with: python -m cluster.models.tiny")
    return FOLDER


def is_folder(model: str) -> bool:
    """Return True if a ``model.path`` names a folder rather than a model of the hub."""
    return model.startswith(("/", ".", "~"))


def check_model_path(config: Config) -> None:
    """Refuse, before anything is loaded, a ``model.path`` that cannot be a model.

    Raises ModelError for a folder that does not exist, an adapter, and a model of the hub while the hub does not answer.
    """
    path = model_path(config)
    named = f"model.path={config.model.path}"
    if Path(path).is_dir():
        _refuse_adapter(named, Path(path))
        return
    if is_folder(path) or path.count("/") > 1:
        raise ModelError(f"{named}: there is no such folder")
    if is_cached_model(path):
        return
    if "/" not in path and path not in WITHOUT_OWNER:
        raise ModelError(
            f"{named}: there is no such folder here, and a model of the Hugging Face hub has an id with its owner, OWNER/NAME. "
            "Give one of these, or 'tiny' for the built-in model"
        )
    if reason := unreachable_reason():
        raise ModelError(
            f"{named}: there is no such folder here, and the Hugging Face hub cannot be used ({reason}). Give a local "
            "folder, or 'tiny' for the built-in model"
        )


def _refuse_adapter(named: str, folder: Path) -> None:
    """Raise ModelError if ``folder`` holds an adapter, or a run with an adapter, and no model."""
    if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
        raise ModelError(
            f"{named} is the folder of a run that trained all weights, not a model: model.path={folder / 'model'}"
        )
    adapters = [path for path in (folder, folder / "adapter") if (path / ADAPTER_FILE).is_file()]
    if (folder / "config.json").is_file() or not adapters:
        return
    adapter = adapters[0]
    try:
        base = json.loads((adapter / ADAPTER_FILE).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    what = "a LoRA adapter" if adapter == folder else "the folder of a run"
    settings, further = (
        shlex.join([f"model.path={base or 'BASE'}", f"{key}={adapter}"]) for key in ("model.adapter", "learner.adapter")
    )
    raise ModelError(
        f"{named} is {what}, not a model. To measure the adapter: {settings} (`caravan eval`, `caravan sample`). To train it "
        f"further: {further} (`caravan train`)"
    )
