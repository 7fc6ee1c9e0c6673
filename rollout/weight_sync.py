"""Weight-sync verification: a sampler shows that it serves the policy that the learner published.

Three checks, each of which finds what the others miss. The probe prompt compares log-probabilities through the path of every
request: it finds a wrong scale or base model. The module names find an adapter of which some modules, or, with unknown keys, all
modules were bound to nothing. The weights of the bound modules tell one version from the next, which after a single small step
no probe prompt can.
"""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ModelError
from cluster.types import PolicyVersion, ProbePrompt
from rollout.settings import RolloutSettings

TOLERANCE_NATS = {"float32": 1e-3, "bfloat16": 0.05}
"""Allowed mean absolute difference to the learner's log-probabilities, by the dtype that a sampler serves. Two implementations
differ by 1e-6 (float32) and by 0.002 to 0.02 (bfloat16); an adapter that changes the policy at all, by 0.1 and more."""

MAX_NAMED = 6
"""Modules that an error names; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter as vLLM identifies it.

    vLLM caches by ``version`` and ``folder``: neither may ever stand for other weights. By ``slot`` it knows what is loaded: a
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
    gap: float | None  # mean absolute difference to the learner's logprobs, nats; None without a probe prompt
    tolerance: float  # nats
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
                f"(rollout.weight_sync_tolerance is {self.tolerance:g})"
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
    policy: PolicyVersion, adapter: BoundAdapter, logprobs: Collection[float] | None, settings: RolloutSettings
) -> Verification:
    """Compare a sampler's adapter and its ``logprobs`` of the probe prompt, ``[N - 1]``, with the learner's."""
    trained = set(policy.modules or adapter.named)
    return Verification(
        policy_version=policy.number,
        gap=None if policy.probe is None else mean_gap(policy.probe, logprobs or ()),
        tolerance=settings.weight_sync_tolerance or TOLERANCE_NATS[settings.served_dtype],
        missing=tuple(sorted(trained - set(adapter.bound))),
        surplus=tuple(sorted(set(adapter.bound) - trained)),
        differing=adapter.differing,
    )


def verify_base_model(probe: ProbePrompt, logprobs: Collection[float], settings: RolloutSettings) -> Verification:
    """Compare a sampler's log-probabilities of the probe prompt under the base model with the learner's."""
    base = PolicyVersion(number=0, adapter={}, probe=probe)
    return verify(base, BoundAdapter(named=(), bound=(), differing=()), logprobs, settings)


def mean_gap(probe: ProbePrompt, logprobs: Collection[float]) -> float:
    """Mean absolute difference to the probe prompt's log-probabilities, in nats; raises ModelError for a wrong number of them."""
    if not len(logprobs) == len(probe.logprobs) == len(probe.token_ids) - 1:
        raise ModelError(
            f"a probe prompt of {len(probe.token_ids)} tokens came with {len(probe.logprobs)} log-probabilities "
            f"and was scored with {len(logprobs)}; both must be one fewer than its tokens"
        )
    return sum(abs(ours - theirs) for ours, theirs in zip(logprobs, probe.logprobs, strict=True)) / len(logprobs)


def _some(modules: Collection[str]) -> str:
    names = sorted(modules)[:MAX_NAMED]
    return ", ".join(names) + (f" and {len(modules) - len(names)} more" if len(modules) > len(names) else "")
