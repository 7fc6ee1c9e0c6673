"""Measured service times of the parts of a run, with their sources; input of the simulation."""

import bisect
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Kind of completions with similar grading time."""

    share: float
    cpu_ms: float
    reward: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTimes:
    """Service times of a sampler, a grader core, a learner and the driver."""

    name: str
    token_quantiles: tuple[
        float, ...
    ]  # tokens of a completion at equally spaced quantiles, from the shortest to the longest
    step_seconds: tuple[tuple[int, float], ...]  # running completions -> seconds of an engine step
    prefill_tokens: float  # cost of a completion in addition to its tokens (prompt, call), in tokens of a full engine
    max_running: int  # completions that an engine samples at a time
    kinds: tuple[Kind, ...]
    grading_spread: float  # standard deviation of the logarithm of the grading time within a kind
    learner_seconds_per_token: float  # per sampled token; the cost of prompts is included
    publish_seconds: tuple[float, ...]  # of one sampler; all values are equally likely
    driver_seconds_per_sampled: float  # CPU seconds of the driver's process per sampled completion
    driver_seconds_per_graded: float  # CPU seconds of the driver's process per graded completion

    def num_tokens(self, source: random.Random) -> int:
        """Draw the number of tokens of a completion."""
        return max(1, round(at_share(self.token_quantiles, source.random())))

    def kind(self, source: random.Random) -> Kind:
        """Draw the kind of a completion."""
        (drawn,) = source.choices(self.kinds, [kind.share for kind in self.kinds])
        return drawn

    def grading_seconds(self, kind: Kind, source: random.Random) -> float:
        """Draw the CPU seconds of one grading."""
        return 1e-3 * kind.cpu_ms * source.lognormvariate(-(self.grading_spread**2) / 2, self.grading_spread)

    def seconds_per_token(self, num_running: int) -> float:
        """Return seconds of an engine step, interpolated between the measured numbers."""
        numbers = [number for number, _ in self.step_seconds]
        after = min(max(1, bisect.bisect_left(numbers, num_running)), len(numbers) - 1)
        (low, fast), (high, slow) = self.step_seconds[after - 1], self.step_seconds[after]
        return fast + (slow - fast) * (num_running - low) / (high - low)

    @property
    def mean_tokens(self) -> float:
        """Return the mean number of tokens of a completion."""
        inner = self.token_quantiles[1:-1]
        ends = (self.token_quantiles[0] + self.token_quantiles[-1]) / 2
        return (sum(inner) + ends) / (len(self.token_quantiles) - 1)

    @property
    def completions_per_second(self) -> float:
        """Return completions per second of a sampler that is always full."""
        seconds = self.seconds_per_token(self.max_running) / self.max_running
        return 1 / (seconds * (self.mean_tokens + self.prefill_tokens))

    @property
    def grading_cpu_seconds(self) -> float:
        """Return the mean grading seconds of a completion."""
        return 1e-3 * sum(kind.share * kind.cpu_ms for kind in self.kinds)

    @property
    def graders_per_sampler(self) -> float:
        """Return the number of grader cores that keep up with a full sampler."""
        return self.completions_per_second * self.grading_cpu_seconds

    @property
    def samplers_per_learner(self) -> float:
        """Return the number of full samplers that one learner keeps up with."""
        return 1 / (self.completions_per_second * self.mean_tokens * self.learner_seconds_per_token)

    @property
    def samplers_per_driver(self) -> float:
        """Return the number of full samplers that saturate the driver's process."""
        seconds = self.driver_seconds_per_sampled + self.driver_seconds_per_graded
        return 1 / (self.completions_per_second * seconds) if seconds else math.inf


def at_share(quantiles: Sequence[float], share: float) -> float:
    """Return the value at a share (0 to 1) of a distribution given by equally spaced quantiles."""
    place = share * (len(quantiles) - 1)
    low = min(int(place), len(quantiles) - 2)
    return quantiles[low] + (quantiles[low + 1] - quantiles[low]) * (place - low)


TINY_ON_CPU = ServiceTimes(
    name="the tiny model on a CPU",
    token_quantiles=(5, 12, 15, 18, 21, 25, 30, 36, 45, 60, 96),
    step_seconds=((1, 0.0076), (4, 0.0103), (16, 0.0146), (64, 0.0262)),
    prefill_tokens=35,
    max_running=64,
    kinds=(
        Kind(share=0.45, cpu_ms=4.1, reward=1.0),
        Kind(share=0.22, cpu_ms=4.4, reward=0.5),
        Kind(share=0.20, cpu_ms=3.8, reward=0.1),
        Kind(share=0.09, cpu_ms=0.7, reward=0.0),
        Kind(share=0.04, cpu_ms=16.1, reward=0.4),
    ),
    grading_spread=0.4,
    learner_seconds_per_token=0.0004,
    publish_seconds=(0.03, 0.04, 0.05),
    driver_seconds_per_sampled=0.0008,
    driver_seconds_per_graded=0.0008,
)
