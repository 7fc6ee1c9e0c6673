"""Whether a model can be served, told in one line where vLLM would print some hundred."""

from pathlib import Path

from pydantic import ValidationError

from cluster.types import ModelError

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")


def check_model(model: str, num_tokens: int) -> None:
    """Refuse a model that is not there, has no weights or readable configuration, or takes fewer tokens than wanted.

    Raises ModelError.
    """
    from transformers import AutoConfig

    folder = Path(model).expanduser()
    if model.startswith(("/", ".", "~")) and not (folder / "config.json").is_file():
        raise ModelError(f"model {model!r} cannot be loaded: there is no such folder with a config.json in it")
    if folder.is_dir() and not any(file.suffix in WEIGHT_SUFFIXES for file in folder.iterdir()):
        raise ModelError(
            f"model {model!r} cannot be loaded: the folder holds no weights ({', '.join(WEIGHT_SUFFIXES)})"
        )
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {model!r} cannot be loaded: {one_line(error)}; "
            "give a Hugging Face id that can be reached from here, or the path of a model folder"
        ) from error
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and num_tokens > limit:
        raise ModelError(
            f"model {model!r} takes {limit} tokens at most, fewer than rollout.max_prompt_tokens + "
            f"rollout.max_completion_tokens = {num_tokens}; lower one of them"
        )


def one_line(error: BaseException) -> str:
    """Return what an error says in one line, or its name where it says nothing."""
    if isinstance(error, ValidationError):  # vLLM's configuration is made of pydantic models
        return "; ".join(detail["msg"] for detail in error.errors(include_url=False))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
