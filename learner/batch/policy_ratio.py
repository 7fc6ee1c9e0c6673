"""How far the trainer's policy is from the sampler's, over the tokens of one step, and weights that correct for it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from learner.settings import CorrectionMode


@dataclass(slots=True)
class RatioStatistics:
    """Sums over the completion tokens of a step, under the names that TRL gives to the same measures."""

    num_tokens: int = 0
    sum_of_differences: float = 0.0
    largest_difference: float = 0.0
    sum_of_ratios: float = 0.0

    @classmethod
    def joined(cls, parts: "Sequence[RatioStatistics]") -> "RatioStatistics":
        """Those of several ranks as one."""
        return cls(
            num_tokens=sum(part.num_tokens for part in parts),
            sum_of_differences=sum(part.sum_of_differences for part in parts),
            largest_difference=max(part.largest_difference for part in parts),
            sum_of_ratios=sum(part.sum_of_ratios for part in parts),
        )

    def add(self, trainer_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> None:
        """Count a micro-batch: three tensors ``[B, T]``, on any device."""
        device = trainer_logprobs.device
        difference = (trainer_logprobs - sampler_logprobs.to(device))[mask.to(device).bool()]
        if difference.numel():
            self.num_tokens += difference.numel()
            self.sum_of_differences += difference.abs().sum().item()
            self.largest_difference = max(self.largest_difference, difference.abs().max().item())
            self.sum_of_ratios += difference.exp().sum().item()

    def metrics(self) -> dict[str, float]:
        """The means and the maximum; empty before the first token."""
        if not self.num_tokens:
            return {}
        return {
            "num_completion_tokens": float(self.num_tokens),
            "sampling/sampling_logp_difference/mean": self.sum_of_differences / self.num_tokens,
            "sampling/sampling_logp_difference/max": self.largest_difference,
            "sampling/importance_sampling_ratio/mean": self.sum_of_ratios / self.num_tokens,
        }


def correction(
    trainer_logprobs: Tensor,
    sampler_logprobs: Tensor,
    mask: Tensor,
    *,
    mode: CorrectionMode,
    smallest: float | None,
    largest: float | None,
) -> Tensor:
    """How likelier the trainer's policy is than the sampler's, as weights for the loss that stay within bounds.

    All tensors are ``[B, T]``; ``mask`` is 1 for tokens that enter the loss. Modes ``token_*`` give a weight per token,
    ``[B, T]``, which is 1 for the others; ``sequence_*`` one per completion, ``[B, 1]``. Weights out of bounds become the bound
    (``*_truncate``) or 0 (``*_mask``). TRL's own computation stands inside its generation, where it cannot be called.
    """
    differences = (trainer_logprobs - sampler_logprobs) * mask
    if mode.startswith("sequence"):
        differences = differences.sum(dim=1, keepdim=True)
    weights = differences.exp()
    if mode.endswith("truncate"):
        return weights.clamp(min=smallest, max=largest)
    too_small = weights < (-math.inf if smallest is None else smallest)
    too_large = weights > (math.inf if largest is None else largest)
    return weights.masked_fill(too_small | too_large, 0.0)
