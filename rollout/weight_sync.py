"""Weight-sync verification: a sampler shows that it serves the policy that the learner published.

Three checks, each of which finds what the others miss. The probe prompts compare log-probabilities through the path of every
request: they find a wrong scale or base model. The module names find an adapter of which some modules, or, with unknown keys, all
modules were bound to nothing. The weights of the bound modules tell one version from the next, which after a single small step
no probe prompt can.

Learner and sampler never compute exactly the same values. The rounding noise of a run is measured with the base model, before
anything is trained, and the tolerance of its policies follows from it:

- The gap of a probe prompt is the mean absolute difference over its tokens. A policy's gap is the median over the probe prompts,
  so that no single prompt decides.
- A policy's gap is compared with the gap of the base model, not token by token: after a few steps the rounding errors of the
  same tokens are independent of those under the base model, while their size stays (``make bench-noise``). The difference of
  both errors would have 1.4 times the noise.
- The tolerance is twice the median, over the probe prompts, of the base model's gap plus two standard errors.
"""

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ModelError
from cluster.types import PolicyVersion, ProbeGap, ProbePrompt
from rollout.settings import RolloutSettings

MAX_BASE_GAP_NATS = {"float32": 1e-3, "bfloat16": 0.08}
"""Largest gap of a base model, by the dtype that a sampler serves. Two implementations differ by 1e-6 (float32) and by 0.002 to
0.05 (bfloat16); different computations, by 0.09 and more."""

MAX_QUANTIZED_GAP_NATS = 0.5
"""The same where samplers or learner compute in fewer bits: the tiny model in NF4 is 0.28 nats away from itself in float32. Scale
and base model of an adapter are then checked up to this noise; its names and weights are still checked exactly."""

MIN_TOLERANCE_NATS = {"float32": 1e-3, "bfloat16": 0.01}
"""Smallest tolerance, for a machine whose base model happens to have little noise: an adapter adds some."""

NOISE_FACTOR = 2.0
NUM_STANDARD_ERRORS = 2.0

MAX_NAMED = 6
"""Modules that an error names; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter as vLLM identifies it.

    vLLM caches by ``version`` and ``folder``: neither may ever stand for other weights. The ``slot`` names a loaded adapter: a
    new adapter in the same slot replaces the old one for running requests.
    """

    version: int
    slot: int
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundAdapter:
    """Modules of an adapter in the engine, by name as in PEFT's keys, without prefix and suffix."""

    named: tuple[str, ...]  # in the adapter's files
    bound: tuple[str, ...]  # have adapter weights in the engine
    differing: tuple[str, ...]  # bound, with other weights than the files have


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Result of verifying one policy on one sampler."""

    policy_version: int
    gap: float | None  # to the learner's logprobs, nats per token; None without probe prompts
    tolerance: float  # largest gap of a verified policy
    missing: tuple[str, ...]  # modules that were trained and are not bound
    surplus: tuple[str, ...]  # modules that are bound and were not trained
    differing: tuple[str, ...]  # modules that are bound with other weights

    @property
    def failure(self) -> str | None:
        """One line with all causes of failure; None for a verified policy."""
        causes = []
        if self.gap is not None and not self.gap <= self.tolerance:
            causes.append(
                f"its log-probabilities are {self.gap:.2g} nats per token away from the learner's "
                f"({self.tolerance:.2g} is allowed)"
            )
        for modules, fault in (
            (self.missing, "trained modules are not bound"),
            (self.surplus, "modules are bound that were not trained"),
            (self.differing, "modules are bound with other weights than were published"),
        ):
            if modules:
                causes.append(f"{len(modules)} {fault} ({_some(modules)})")
        return f"does not serve policy {self.policy_version}: {'; '.join(causes)}" if causes else None


def verify(
    policy: PolicyVersion, adapter: BoundAdapter, scored: Sequence[Collection[float]], tolerance: float
) -> Verification:
    """Compare a sampler's adapter, and its log-probabilities of each probe prompt, ``[N - 1]``, with the learner's."""
    trained = set(policy.modules or adapter.named)
    return Verification(
        policy_version=policy.number,
        gap=typical_gap(probe_gaps(policy.probes, scored)) if policy.probes else None,
        tolerance=tolerance,
        missing=tuple(sorted(trained - set(adapter.bound))),
        surplus=tuple(sorted(set(adapter.bound) - trained)),
        differing=adapter.differing,
    )


def probe_gaps(probes: Sequence[ProbePrompt], scored: Sequence[Collection[float]]) -> tuple[ProbeGap, ...]:
    """Compare a sampler's log-probabilities of each probe prompt with the learner's; ModelError for a wrong number of them."""
    return tuple(_gap(probe, logprobs) for probe, logprobs in zip(probes, scored, strict=True))


def typical_gap(gaps: Sequence[ProbeGap]) -> float:
    """Return the median over the probe prompts, in nats per token; NaN if one is not finite."""
    means = [gap.mean for gap in gaps]
    return statistics.median(means) if all(map(math.isfinite, means)) else math.nan


def max_base_gap(settings: RolloutSettings, *, learner_is_quantized: bool = False) -> float:
    """Return the largest gap of a base model that may be trained."""
    if settings.weight_sync_tolerance:
        return settings.weight_sync_tolerance
    is_quantized = settings.is_quantized or learner_is_quantized
    return MAX_QUANTIZED_GAP_NATS if is_quantized else MAX_BASE_GAP_NATS[settings.served_dtype]


def tolerance(settings: RolloutSettings, base_gaps: Sequence[ProbeGap] = ()) -> float:
    """Return the largest gap with which a policy is verified, from ``base_gaps``; without gaps, the limit of a base model."""
    if settings.weight_sync_tolerance or not base_gaps:
        return max_base_gap(settings)
    noise = [gap.mean + NUM_STANDARD_ERRORS * gap.spread / math.sqrt(gap.num_tokens) for gap in base_gaps]
    return max(MIN_TOLERANCE_NATS[settings.served_dtype], NOISE_FACTOR * statistics.median(noise))


def _gap(probe: ProbePrompt, logprobs: Collection[float]) -> ProbeGap:
    if not len(logprobs) == len(probe.logprobs) == len(probe.token_ids) - 1:
        raise ModelError(
            f"a probe prompt of {len(probe.token_ids)} tokens came with {len(probe.logprobs)} log-probabilities "
            f"and was scored with {len(logprobs)}; both must be one fewer than its tokens"
        )
    differences = [abs(ours - theirs) for ours, theirs in zip(logprobs, probe.logprobs, strict=True)]
    mean = sum(differences) / len(differences)
    spread = math.sqrt(sum((difference - mean) ** 2 for difference in differences) / len(differences))
    return ProbeGap(num_tokens=len(differences), mean=mean, spread=spread)


def _some(modules: Collection[str]) -> str:
    names = sorted(modules)[:MAX_NAMED]
    return ", ".join(names) + (f" and {len(modules) - len(names)} more" if len(modules) > len(names) else "")
