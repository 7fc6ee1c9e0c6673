"""Tiny random models of many families, with the built-in model's tokenizer and a chat template like their family's."""

from pathlib import Path
from typing import Any

from cluster.config.model_path import tiny_model_path
from tests.rollout.chat_templates import CHATML, GEMMA, HARMONY, LLAMA, MISTRAL, PHI, QWEN3

SIZE = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # peaked enough that a wrong temperature or adapter shows
    "eos_token_id": 0,
    "pad_token_id": 1,
    "bos_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LOCAL = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}  # shorter than the prompts

FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 32},
    "llama": {},
    "mistral": {"head_dim": 32, "sliding_window": None},
    "gemma3_text": {"head_dim": 32, "query_pre_attn_scalar": 32, **LOCAL},
    # vLLM 0.32 gives Cohere's windows one token more than transformers does (commandr.py), so prompts stay within them here.
    "cohere2": {"logit_scale": 0.25, **LOCAL, "sliding_window": 256},
    "olmo2": {},
    "glm4": {"head_dim": 32, "partial_rotary_factor": 0.5},
    "qwen3_moe": {"head_dim": 32, **EXPERTS},
    "ministral3": {"head_dim": 32, "sliding_window": None},
    "phi3": {"sliding_window": None},  # one projection for queries, keys and values, and one for gate and up
    "gpt_oss": {"head_dim": 32, "num_local_experts": 4, "num_experts_per_tok": 2, **LOCAL},
}

CHAT_TEMPLATES = {
    "qwen2": CHATML,
    "qwen3": QWEN3,  # opens thoughts
    "llama": LLAMA,
    "mistral": MISTRAL,
    "gemma3_text": GEMMA,  # refuses a system message
    "qwen3_moe": QWEN3,
    "ministral3": MISTRAL,
    "phi3": PHI,
    "gpt_oss": HARMONY,
}


def make_model(folder: Path, family: str, **changes: Any) -> str:
    """Write a model of a family (its ``model_type``), with its tokenizer; returns the folder's path."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **SIZE | FAMILIES.get(family, {}) | changes)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # with norms at 1 and biases at 0, nobody would notice that they are not read
            with torch.no_grad():
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    tokenizer.chat_template = CHAT_TEMPLATES.get(family)  # the others are base models
    tokenizer.save_pretrained(folder)
    return str(folder)
