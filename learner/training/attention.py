"""Choice of the attention implementation of the learner's forward pass.

FlashAttention 2 computes no padding and keeps no copies of grouped keys and values. It is not among the pinned packages: it is
used where its package is installed. The ``kernels`` package is not used, because it downloads kernels at run time.
"""

from typing import Any

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import is_flash_attn_2_available

FLASH = "flash_attention_2"


def attention_implementation(config: Any, *, use_cpu: bool, dtype: torch.dtype) -> str | None:
    """Return transformers' name of the implementation for this model and device; None: its default, sdpa for most models.

    FlashAttention 2 has not run on a GPU here.
    """
    # Gemma 2 caps its attention logits; sdpa silently ignores the cap.
    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        return "eager"
    if use_cpu or dtype != torch.bfloat16 or not is_flash_attn_2_available():
        return None
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    only_these = getattr(model_class, "_compatible_flash_implementations", None)
    is_supported = getattr(model_class, "_supports_flash_attn", False) and (only_these is None or FLASH in only_these)
    return FLASH if is_supported else None
