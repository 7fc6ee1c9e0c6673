"""The tokens at which vLLM ends a completion, besides the stop strings of the configuration."""

from typing import Any


def end_token_ids(tokenizer: Any, model: str) -> tuple[int, ...]:
    """Return the ids of the end-of-sequence tokens: the tokenizer's own first, then those of the model's generation config.

    This is what vLLM 0.32 takes (``SamplingParams.update_from_generation_config``). Files that cannot be read add no token:
    loading the model reports them better.
    """
    from transformers import AutoConfig, GenerationConfig

    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    try:
        generation = GenerationConfig.from_pretrained(model)
    except (OSError, ValueError):
        try:
            generation = GenerationConfig.from_model_config(AutoConfig.from_pretrained(model))
        except (OSError, ValueError):
            return tuple(own)
    ids = generation.eos_token_id
    found = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return tuple(dict.fromkeys([*own, *found]))
