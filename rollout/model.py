"""Whether a model can be served, told in one line where vLLM would print some hundred."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from cluster.errors import ModelError
from cluster.types import Prompt

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt")


def check_model(model: str, num_tokens: int, tensor_parallel_size: int = 1) -> None:
    """Refuse a model that is not there, has no weights or readable configuration, takes fewer tokens than wanted, or cannot
    be split over so many GPUs.

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
    heads = getattr(config, "num_attention_heads", None)
    if heads is not None:
        check_split(
            model, tensor_parallel_size, heads=heads, kv_heads=getattr(config, "num_key_value_heads", None) or heads
        )


def check_vocabulary(model: str, prompts: Iterable[Prompt]) -> None:
    """Refuse, with a ModelError, prompts with tokens for which the model has no embedding.

    A tokenizer to which tokens were added goes with a model whose embeddings were resized; without that, scoring such a
    prompt fails deep inside the model. More embeddings than tokens are usual.
    """
    from transformers import AutoConfig

    try:
        size = getattr(AutoConfig.from_pretrained(model).get_text_config(), "vocab_size", None)
    except (OSError, ValueError):
        return  # said better where the model is loaded
    largest = max((max(prompt.token_ids) for prompt in prompts if prompt.token_ids), default=0)
    if size is not None and largest >= size:
        raise ModelError(
            f"its tokenizer and its weights do not belong together: a prompt holds token {largest}, and the model has embeddings "
            f"for {size} tokens (vocab_size in config.json). Give it the tokenizer that it was trained with, or resize its "
            "embeddings"
        )


def check_split(model: str, num_gpus: int, *, heads: int, kv_heads: int) -> None:
    """Refuse, with a ModelError, a model whose attention heads cannot be split evenly.

    Each GPU has as many heads as any other; of keys and values, of which there may be fewer, several GPUs may have the same.
    """
    if heads % num_gpus or (kv_heads % num_gpus and num_gpus % kv_heads):
        fitting = [n for n in range(1, heads + 1) if not heads % n and not (kv_heads % n and n % kv_heads)]
        raise ModelError(
            f"rollout.tensor_parallel_size={num_gpus} does not split model {model!r}, which has {heads} attention heads and "
            f"{kv_heads} heads of keys and values: {', '.join(map(str, fitting))} would"
        )


def one_line(error: BaseException) -> str:
    """Return what an error says in one line, or its name where it says nothing."""
    if isinstance(error, ValidationError):  # vLLM's configuration is made of pydantic models
        return "; ".join(detail["msg"] for detail in error.errors(include_url=False))
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
