"""Checks that a model can be served, with one-line errors."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from cluster.errors import ModelError
from cluster.types import Prompt

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")


def check_model(model: str, num_tokens: int, tensor_parallel_size: int = 1) -> None:
    """Raise ModelError for a model that is missing, has no weights or readable configuration, has a context of fewer than
    ``num_tokens``, or cannot be split over ``tensor_parallel_size`` GPUs.
    """
    from transformers import AutoConfig

    folder = Path(model).expanduser()
    if model.startswith(("/", ".", "~")) and not (folder / "config.json").is_file():
        raise ModelError(f"model {model!r} cannot be loaded: there is no such folder with a config.json")
    if folder.is_dir() and not any(file.suffix in WEIGHT_SUFFIXES for file in folder.iterdir()):
        raise ModelError(
            f"model {model!r} cannot be loaded: the folder holds no weights ({', '.join(WEIGHT_SUFFIXES)})"
        )
    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model {model!r} cannot be loaded: {one_line(error)}; "
            "use a Hugging Face id that this machine can download, or the path of a model folder"
        ) from error
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and num_tokens > limit:
        raise ModelError(
            f"model {model!r} has a context of {limit} tokens, fewer than rollout.max_prompt_tokens + "
            f"rollout.max_completion_tokens = {num_tokens}; lower one of them"
        )
    heads = getattr(config, "num_attention_heads", None)
    if heads is not None:
        check_split(
            model, tensor_parallel_size, heads=heads, kv_heads=getattr(config, "num_key_value_heads", None) or heads
        )


def has_safetensors(model: str) -> bool:
    """Return False for a model folder whose weights are in another format only; models of the hub are taken to have them."""
    folder = Path(model).expanduser()
    return not folder.is_dir() or any(folder.glob("*.safetensors"))


def check_vocabulary(model: str, prompts: Iterable[Prompt]) -> None:
    """Raise ModelError for prompts with token ids for which the model has no embedding.

    This happens when tokens were added to the tokenizer and the model's embeddings were not resized; the forward pass would fail
    with an obscure error. More embeddings than tokens are usual.
    """
    from transformers import AutoConfig

    try:
        size = getattr(AutoConfig.from_pretrained(model).get_text_config(), "vocab_size", None)
    except (OSError, ValueError):
        return  # loading the model reports it better
    largest = max((max(prompt.token_ids) for prompt in prompts if prompt.token_ids), default=0)
    if size is not None and largest >= size:
        raise ModelError(
            f"its tokenizer and its weights do not match: a prompt holds token {largest}, and the model has embeddings "
            f"for {size} tokens (vocab_size in config.json). Use the tokenizer that it was trained with, or resize its "
            "embeddings"
        )


def check_split(model: str, num_gpus: int, *, heads: int, kv_heads: int) -> None:
    """Raise ModelError for a model whose attention heads cannot be split evenly over GPUs.

    All GPUs have equally many query heads; a head of keys and values may be on several GPUs.
    """
    if heads % num_gpus or (kv_heads % num_gpus and num_gpus % kv_heads):
        fitting = [n for n in range(1, heads + 1) if not heads % n and not (kv_heads % n and n % kv_heads)]
        raise ModelError(
            f"rollout.tensor_parallel_size={num_gpus} does not split model {model!r}, which has {heads} attention heads and "
            f"{kv_heads} heads of keys and values: possible are {', '.join(map(str, fitting))}"
        )


def one_line(error: BaseException) -> str:
    """Return the first line of an error, or the name of its type if it has no text."""
    if isinstance(error, ValidationError):  # vLLM's configuration classes are pydantic models
        return "; ".join(detail["msg"] for detail in error.errors(include_url=False))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
