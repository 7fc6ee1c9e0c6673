"""Whether a sampler serves the policy that the learner published: what it must show, and what it is told when it fails.

Three things are looked at, for each misses what another sees. The probe prompt compares log-probabilities, through the path
that every request takes: a wrong scale or base model shows there. The modules tell an adapter of which a part (or, with
foreign keys, all) was bound to nothing. Their weights tell one version from the next, which after one small step no
probe prompt can.
"""

from collections.abc import Collection
from dataclasses import dataclass

from cluster.errors import ModelError
from cluster.types import PolicyVersion, ProbePrompt
from rollout.settings import RolloutSettings

TOLERANCE_NATS = {"float32": 1e-3, "bfloat16": 0.05}
"""Mean absolute difference to the learner's log-probabilities, by the dtype that a sampler serves. Two implementations
differ by 1e-6 (float32) and by 0.002 to 0.02 (bfloat16); an adapter that moves the policy at all, by 0.1 and more."""

MAX_NAMED = 6
"""Modules that an error names; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundAdapter:
    """What the engine made of an adapter's files; module names as in PEFT's keys, without prefix and suffix."""

    named: tuple[str, ...]  # in the files
    bound: tuple[str, ...]  # hold weights in the engine
    differing: tuple[str, ...]  # are bound, with other weights than the files have


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What one sampler showed of one policy."""

    policy_version: int
    gap: float | None  # mean absolute difference, nats; None without a probe prompt
    tolerance: float  # nats
    missing: tuple[str, ...]  # trained, and not bound
    surplus: tuple[str, ...]  # bound, and not trained
    differing: tuple[str, ...]  # bound with other weights

    @property
    def failure(self) -> str | None:
        """What is wrong, in one line; None where nothing is."""
        reasons = []
        if self.gap is not None and not self.gap <= self.tolerance:
            reasons.append(
                f"its log-probabilities are {self.gap:.2g} nats per token away from the learner's "
                f"(rollout.canary_tolerance is {self.tolerance:g})"
            )
        for modules, fault in (
            (self.missing, "trained modules are not bound"),
            (self.surplus, "modules are bound that were not trained"),
            (self.differing, "modules are bound with other weights than were published"),
        ):
            if modules:
                reasons.append(f"{len(modules)} {fault} ({_some(modules)})")
        return f"does not serve policy {self.policy_version}: {'; '.join(reasons)}" if reasons else None


def verify(
    policy: PolicyVersion, adapter: BoundAdapter, logprobs: Collection[float] | None, settings: RolloutSettings
) -> Verification:
    """Compare what a sampler shows with what the learner told; ``logprobs`` are its own of the probe prompt, ``[N - 1]``."""
    trained = set(policy.modules or adapter.named)
    return Verification(
        policy_version=policy.number,
        gap=None if policy.probe is None else mean_gap(policy.probe, logprobs or ()),
        tolerance=settings.canary_tolerance or TOLERANCE_NATS[settings.served_dtype],
        missing=tuple(sorted(trained - set(adapter.bound))),
        surplus=tuple(sorted(set(adapter.bound) - trained)),
        differing=adapter.differing,
    )


def verify_base_model(probe: ProbePrompt, logprobs: Collection[float], settings: RolloutSettings) -> Verification:
    """Compare how a sampler and the learner score the probe prompt under the base model, which has no adapter to look at."""
    base = PolicyVersion(number=0, adapter={}, probe=probe)
    return verify(base, BoundAdapter(named=(), bound=(), differing=()), logprobs, settings)


def mean_gap(probe: ProbePrompt, logprobs: Collection[float]) -> float:
    """Mean absolute difference of two scorings of the probe prompt, in nats; raises ModelError where one is not whole."""
    if not len(logprobs) == len(probe.logprobs) == len(probe.token_ids) - 1:
        raise ModelError(
            f"a probe prompt of {len(probe.token_ids)} tokens came with {len(probe.logprobs)} log-probabilities "
            f"and was scored with {len(logprobs)}; both must be one fewer than its tokens"
        )
    return sum(abs(ours - theirs) for ours, theirs in zip(logprobs, probe.logprobs, strict=True)) / len(logprobs)


def _some(modules: Collection[str]) -> str:
    names = sorted(modules)[:MAX_NAMED]
    return ", ".join(names) + (f" and {len(modules) - len(names)} more" if len(modules) > len(names) else "")
