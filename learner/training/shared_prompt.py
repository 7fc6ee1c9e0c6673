"""One forward pass over a prompt for all its completions.

The completions of a group share their prompt, which is often longer than they are; row by row, the same prompt would be computed
``G`` times. Here the keys and values of a prompt are computed once, and its completions read them from the cache as in
``generate``. The function and its gradient are the same (the cache is part of the graph), for a half to a third of the work.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor


def with_shared_prompts(
    model: Any, *, num_completion_tokens: int, first_rows: Tensor, prompt_of_row: Tensor
) -> Callable[..., Any]:
    """Wrap a model's fused forward (TRL's ``fused_lm_head=True``) for rows ``[prompt][completion]`` of shape ``[B, P + T]``.

    ``first_rows [U]`` holds one row per distinct prompt and ``prompt_of_row [B]`` the index of each row's prompt in it. The
    outputs are those of the T completion tokens only. Every prompt needs at least two tokens: the last one is computed with the
    completion, because it predicts the completion's first token.
    """

    def forward(*, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, fused_lm_head: bool) -> Any:
        split = input_ids.size(1) - num_completion_tokens - 1
        position_ids = position_ids_argument(model, attention_mask)
        prompts = model(
            input_ids=input_ids[first_rows, :split],
            attention_mask=attention_mask[first_rows, :split],
            **{name: ids[first_rows, :split] for name, ids in position_ids.items()},
            use_cache=True,
            logits_to_keep=1,
        )
        keys_and_values = prompts.past_key_values
        keys_and_values.batch_select_indices(prompt_of_row)
        return model(
            input_ids=input_ids[:, split:],
            attention_mask=attention_mask,
            **{name: ids[:, split:] for name, ids in position_ids.items()},
            past_key_values=keys_and_values,
            labels=labels[:, split:],
            fused_lm_head=fused_lm_head,
        )

    return forward


def with_position_ids(model: Any) -> Callable[..., Any]:
    """Wrap a model's forward for left-padded rows, each with a prompt of its own."""

    def forward(*, attention_mask: Tensor, **inputs: Any) -> Any:
        return model(attention_mask=attention_mask, **position_ids_argument(model, attention_mask), **inputs)

    return forward


def position_ids_argument(model: Any, attention_mask: Tensor) -> dict[str, Tensor]:
    """Return ``position_ids`` ``[B, P + T]`` that skip the left padding; empty for models without the argument.

    Without it most models count the padding, which is harmless only if nothing but the distance of two tokens matters: not with
    learned positions (GPT-2), nor with queries that are scaled after the rotation (HunYuan).
    """
    if "position_ids" not in inspect.signature(model.get_base_model().forward).parameters:
        return {}
    return {"position_ids": (attention_mask.cumsum(dim=1) - 1).clamp(min=0)}
