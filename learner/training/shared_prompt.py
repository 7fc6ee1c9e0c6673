"""One forward pass over a prompt for all its completions.

The completions of a group share their prompt, which is often longer than they are: scoring each row on its own computes the same
prompt ``G`` times over. Here a prompt's keys and values are computed once, and the completions read them as ``generate`` would.
It is the same function and the same gradient (the cache is part of the graph), for a half to a third of the work.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor


def sharing_prompts(
    model: Any, *, num_completion_tokens: int, first_rows: Tensor, prompt_of_row: Tensor
) -> Callable[..., Any]:
    """Wrap a model's fused forward (TRL's ``fused_lm_head=True``) for rows ``[prompt][completion]`` of shape ``[B, P + T]``.

    ``first_rows [U]`` names one row per distinct prompt and ``prompt_of_row [B]`` the distinct prompt of each row. The outputs
    are those of the T completion tokens only. Every prompt needs at least two tokens: the last one is read with the completion,
    because the completion's first token is predicted from it.
    """

    def forward(*, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, fused_lm_head: bool) -> Any:
        split = input_ids.size(1) - num_completion_tokens - 1
        positions = positions_in(model, attention_mask)
        prompts = model(
            input_ids=input_ids[first_rows, :split],
            attention_mask=attention_mask[first_rows, :split],
            **{name: each[first_rows, :split] for name, each in positions.items()},
            use_cache=True,
            logits_to_keep=1,
        )
        keys_and_values = prompts.past_key_values
        keys_and_values.batch_select_indices(prompt_of_row)
        return model(
            input_ids=input_ids[:, split:],
            attention_mask=attention_mask,
            **{name: each[:, split:] for name, each in positions.items()},
            past_key_values=keys_and_values,
            labels=labels[:, split:],
            fused_lm_head=fused_lm_head,
        )

    return forward


def alone(model: Any) -> Callable[..., Any]:
    """Wrap a model's forward for rows whose prompts are computed one by one."""

    def forward(*, attention_mask: Tensor, **inputs: Any) -> Any:
        return model(attention_mask=attention_mask, **positions_in(model, attention_mask), **inputs)

    return forward


def positions_in(model: Any, attention_mask: Tensor) -> dict[str, Tensor]:
    """The argument that says where in its own row each token stands, for models that take one ``[B, P + T]``.

    Prompts are padded on the left. Without it most models count the padding too, which is harmless only where nothing but the
    distance of two tokens matters: not with learned positions (GPT-2), nor where queries are scaled after the rotation (HunYuan).
    """
    if "position_ids" not in inspect.signature(model.get_base_model().forward).parameters:
        return {}
    return {"position_ids": (attention_mask.cumsum(dim=1) - 1).clamp(min=0)}
