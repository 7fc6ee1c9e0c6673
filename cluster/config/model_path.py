"""Where the configured model lies."""

from pathlib import Path

from cluster.config.config import Config
from cluster.errors import ModelError

FOLDER = Path(__file__).parents[2] / "assets" / "tiny"


def model_path(config: Config) -> str:
    """Where the model is, with ``tiny`` resolved."""
    if config.model.path == "tiny":
        return str(tiny_model_path())
    return config.model.path


def tiny_model_path() -> Path:
    """The folder of the shipped model; raises ModelError where it is not there."""
    if not (FOLDER / "model.safetensors").is_file():
        raise ModelError(f"the tiny model is not in {FOLDER}; make it with: python -m cluster.models.tiny")
    return FOLDER


def is_folder(model: str) -> bool:
    """Whether a ``model.path`` names a folder rather than a model of the hub."""
    return model.startswith(("/", ".", "~"))
