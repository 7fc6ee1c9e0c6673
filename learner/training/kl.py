"""Adaptive KL coefficient."""

from dataclasses import dataclass

MAX_RELATIVE_ERROR = 0.2


@dataclass(slots=True)
class AdaptiveKl:
    """Controller that holds the KL divergence near a target (Ziegler et al. 2019, arXiv:1909.08593).

    The coefficient grows while the divergence is above the target and shrinks while it is below, in proportion to the relative
    error, which is clipped to a fifth.
    """

    coefficient: float
    has_adapted: bool = False  # a resumed run needs the coefficient then

    def observe(self, kl: float, *, target: float, num_completions: int, horizon: int) -> None:
        """Adapt the coefficient after an optimizer step; ``kl`` and ``target`` in nats per token.

        Multiplies the coefficient by ``1 + clip(kl / target - 1, -0.2, 0.2) * num_completions / horizon``; for a step
        with more completions than the horizon the quotient is 1.
        """
        self.has_adapted = True
        error = min(max(kl / target - 1, -MAX_RELATIVE_ERROR), MAX_RELATIVE_ERROR)
        self.coefficient *= 1 + error * min(1.0, num_completions / horizon)
