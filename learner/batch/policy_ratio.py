"""Importance ratio of the trainer's policy to the sampler's: statistics over a step, and weights for the loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from learner.settings import CorrectionMode


@dataclass(slots=True)
class RatioStatistics:
    """Sums over the completion tokens of a step; ``metrics`` uses TRL's names."""

    num_tokens: int = 0
    sum_of_differences: float = 0.0  # nats, absolute
    largest_difference: float = 0.0
    sum_of_ratios: float = 0.0

    @classmethod
    def total(cls, parts: "Sequence[RatioStatistics]") -> "RatioStatistics":
        """Combine the statistics of several ranks."""
        return cls(
            num_tokens=sum(part.num_tokens for part in parts),
            sum_of_differences=sum(part.sum_of_differences for part in parts),
            largest_difference=max(part.largest_difference for part in parts),
            sum_of_ratios=sum(part.sum_of_ratios for part in parts),
        )

    def add(self, trainer_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> None:
        """Add a micro-batch: three tensors ``[B, T]``, on any device."""
        device = trainer_logprobs.device
        difference = (trainer_logprobs - sampler_logprobs.to(device))[mask.to(device).bool()]
        if difference.numel():
            self.num_tokens += difference.numel()
            self.sum_of_differences += difference.abs().sum().item()
            self.largest_difference = max(self.largest_difference, difference.abs().max().item())
            self.sum_of_ratios += difference.exp().sum().item()

    def metrics(self) -> dict[str, float]:
        """Return the means and the maximum; empty without tokens."""
        if not self.num_tokens:
            return {}
        return {
            "num_completion_tokens": float(self.num_tokens),
            "sampling/sampling_logp_difference/mean": self.sum_of_differences / self.num_tokens,
            "sampling/sampling_logp_difference/max": self.largest_difference,
            "sampling/importance_sampling_ratio/mean": self.sum_of_ratios / self.num_tokens,
        }


def importance_weights(
    trainer_logprobs: Tensor,
    sampler_logprobs: Tensor,
    mask: Tensor,
    *,
    mode: CorrectionMode,
    clip_min: float | None,
    clip_max: float | None,
) -> Tensor:
    """Importance weights for the loss: the bounded ratio of the trainer's policy to the sampler's.

    All tensors are ``[B, T]``; ``mask`` is 1 for tokens that enter the loss. Modes ``token_*`` return a weight per token,
    ``[B, T]``, with 1 for masked tokens; ``sequence_*`` one per completion, ``[B, 1]``. Weights outside the bounds become the
    bound (``*_truncate``) or 0 (``*_mask``). TRL computes the same inside its generation, where it cannot be called separately.
    """
    differences = (trainer_logprobs - sampler_logprobs) * mask
    if mode.startswith("sequence"):
        differences = differences.sum(dim=1, keepdim=True)
    weights = differences.exp()
    if mode.endswith("truncate"):
        return weights.clamp(min=clip_min, max=clip_max)
    too_small = weights < (-math.inf if clip_min is None else clip_min)
    too_large = weights > (math.inf if clip_max is None else clip_max)
    return weights.masked_fill(too_small | too_large, 0.0)
