"""A KL coefficient that looks after itself."""

from dataclasses import dataclass

LARGEST_ERROR = 0.2


@dataclass(slots=True)
class AdaptiveKl:
    """Keeps a divergence near a target, as in Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences".

    Where the divergence is above the target the coefficient grows, below it shrinks, in proportion to the relative error, of
    which no more than a fifth is believed.
    """

    coefficient: float
    was_steered: bool = False  # whether a run that goes on must know the coefficient

    def observe(self, kl: float, *, target: float, num_completions: int, horizon: int) -> None:
        """Take in what an optimizer step measured; divergence and target in nats per token.

        Multiplies the coefficient by ``1 + clip(kl / target - 1, -0.2, 0.2) * num_completions / horizon``; a step of more
        completions than the horizon counts as one of the horizon's.
        """
        self.was_steered = True
        error = min(max(kl / target - 1, -LARGEST_ERROR), LARGEST_ERROR)
        self.coefficient *= 1 + error * min(1.0, num_completions / horizon)
