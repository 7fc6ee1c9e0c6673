"""Models of the suite: random weights in the shapes of real models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

QWEN_1_5B: Mapping[str, Any] = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
QWEN_7B: Mapping[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
    "tie_word_embeddings": False,
}
SMALL: Mapping[str, Any] = {  # of the stand-ins
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 16_384,
    "tie_word_embeddings": True,
}


def make_qwen(folder: Path, shape: Mapping[str, Any], device: str) -> Path:
    """Write a Qwen2 in bfloat16 with random weights, created on ``device``, and a tokenizer with a word per token."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        **shape, max_position_embeddings=4096, bos_token_id=None, eos_token_id=1, pad_token_id=2, dtype="bfloat16"
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    del model
    if device == "cuda":
        torch.cuda.empty_cache()
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(shape["vocab_size"])}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w2").save_pretrained(folder)
    return folder
