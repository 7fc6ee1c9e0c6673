"""Inputs of supervised fine-tuning: prompt-completion pairs and hyperparameters. Without heavy imports."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[Sequence[int], Sequence[int]]  # prompt ids [P], completion ids [T], the end-of-sequence token included


@dataclass(frozen=True, slots=True, kw_only=True)
class SftSchedule:
    """Hyperparameters: number of steps, batch, optimizer (AdamW) and loss.

    The learning rate warms up linearly and then falls along a cosine to a tenth of its peak.
    """

    num_steps: int | None = None  # None: given by the epochs
    num_epochs: float = 1.0
    batch_size: int = 16  # pairs per step
    micro_batch_size: int = 16  # pairs per forward and backward pass; divides the batch size and affects only memory
    learning_rate: float  # peak
    num_warm_up_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0  # share of each target's probability that is spread over the whole vocabulary
    prompt_loss_weight: float = (
        0.0  # weight of the mean loss on prompt tokens; models learn sooner to copy from prompts
    )
    seed: int = 0  # random order of the pairs, dropout and weights of the new adapter

    def total_steps(self, num_pairs: int) -> int:
        """Number of steps of the training; the last step of each epoch has the remaining pairs."""
        return self.num_steps or max(1, math.ceil(self.num_epochs * math.ceil(num_pairs / self.batch_size)))
