"""What supervised training is given: pairs to learn from, and for how long. Light; ``learner.sft.train`` does the training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Pair = tuple[Sequence[int], Sequence[int]]  # prompt ids [P], completion ids [T], the end-of-sequence token included


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to train: AdamW, a linear warm-up, then a cosine down to a tenth of the learning rate."""

    num_steps: int | None = None  # None: as many as the epochs take
    num_epochs: float = 1.0
    batch_size: int = 16  # pairs in a step
    micro_batch_size: int = (
        16  # pairs in one forward and backward pass, which divides the batch size; a question of memory only
    )
    learning_rate: float  # at its highest
    num_warm_up_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0  # share of each target's probability that is spread over the whole vocabulary
    prompt_loss_weight: float = (
        0.0  # of the mean loss on prompt tokens; a little of it makes copying from prompts come sooner
    )
    seed: int = 0  # of the order of the pairs, of dropout and of a new adapter's weights

    def total_steps(self, num_pairs: int) -> int:
        """Steps of the whole training, as the trainer counts them: each epoch ends with a step of what is left."""
        return self.num_steps or max(1, math.ceil(self.num_epochs * math.ceil(num_pairs / self.batch_size)))
