"""Verification that a sampler serves a policy: tolerance, modules, weights."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.errors import ModelError
from cluster.types import PolicyVersion, ProbeGap, ProbePrompt
from rollout.settings import RolloutSettings
from rollout.weight_sync import BoundAdapter, Verification, max_base_gap, probe_gaps, tolerance, typical_gap, verify

MODULES = tuple(f"model.layers.{layer}.self_attn.q_proj" for layer in range(9))
PROBE = ProbePrompt(token_ids=(5, 6, 7, 8), logprobs=(-1.0, -2.0, -3.0))
POLICY = PolicyVersion(number=3, adapter={}, modules=MODULES, probes=(PROBE,))
WHOLE = BoundAdapter(named=MODULES, bound=MODULES, differing=())
ALLOWED = 1e-3  # nats per token


def test_the_right_adapter_is_verified_and_its_gap_reported() -> None:
    verification = verify(POLICY, WHOLE, [(-1.0, -2.0003, -3.0)], ALLOWED)
    assert verification.failure is None
    assert verification.gap == pytest.approx(1e-4)


def test_a_policy_above_the_tolerance_fails_with_its_gap() -> None:
    failure = verify(POLICY, WHOLE, [(-1.0, -2.0, -3.3)], 0.05).failure
    assert failure is not None and "0.1 nats per token away from the learner's (0.05 is allowed)" in failure


@pytest.mark.parametrize("logprobs", [(float("nan"), -2.0, -3.0), (float("-inf"), -2.0, -3.0)])
def test_logprobs_that_are_not_finite_fail(logprobs: tuple[float, ...]) -> None:
    policy = PolicyVersion(number=3, adapter={}, modules=MODULES, probes=(PROBE,) * 3)
    assert verify(policy, WHOLE, [PROBE.logprobs, PROBE.logprobs, logprobs], ALLOWED).failure is not None


def test_an_adapter_that_is_bound_to_nothing_fails_with_the_names_of_some_modules() -> None:
    unbound = BoundAdapter(named=tuple(f"wrong.{name}" for name in MODULES), bound=(), differing=())
    failure = verify(POLICY, unbound, [PROBE.logprobs], ALLOWED).failure
    assert failure is not None
    assert "9 trained modules are not bound (model.layers.0.self_attn.q_proj" in failure
    assert "and 3 more" in failure
    assert "\n" not in failure


def test_untrained_modules_and_other_weights_are_reported_by_name() -> None:
    other = BoundAdapter(named=MODULES, bound=(*MODULES, "lm_head"), differing=(MODULES[4],))
    failure = verify(POLICY, other, [PROBE.logprobs], ALLOWED).failure
    assert failure is not None
    assert "1 modules are bound that were not trained (lm_head)" in failure
    assert f"other weights than were published ({MODULES[4]})" in failure


def test_without_published_module_names_the_adapters_own_names_must_be_bound() -> None:
    policy = PolicyVersion(number=1, adapter={})
    assert verify(policy, WHOLE, [], ALLOWED).failure is None
    assert verify(policy, BoundAdapter(named=MODULES, bound=MODULES[1:], differing=()), [], ALLOWED).failure


def test_a_probe_prompt_that_was_scored_in_part_is_an_error() -> None:
    with pytest.raises(ModelError, match="4 tokens came with 3 log-probabilities and was scored with 2"):
        probe_gaps([PROBE], [(-1.0, -2.0)])


def test_the_gap_of_a_probe_prompt_has_its_mean_and_its_spread_over_tokens() -> None:
    (gap,) = probe_gaps([PROBE], [(-1.0, -2.2, -3.4)])
    assert gap.num_tokens == 3
    assert gap.mean == pytest.approx(0.2)
    assert gap.spread == pytest.approx(0.4 / math.sqrt(6))


# Size of rounding noise. Published gaps between training and vLLM in bfloat16 have an RMS of 0.03 to 0.04 nats per token
# (Qwen2.5-0.5B) or a standard deviation of 0.05 (Qwen3-1.7B, one prompt with a mean of 0.046).
NUM_PROBES, NUM_TOKENS, RMS = 16, 63, 0.045
Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]
TAILS: dict[str, Draw] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "student": lambda rng, shape: rng.standard_t(3, shape) / math.sqrt(3),
    "lognormal": lambda rng, shape: rng.standard_normal(shape) * np.exp(rng.standard_normal(shape) - 1),
}


class NoisySampler:
    """Rounding noise of a sampler: each probe prompt has its own size of noise, and tokens of a prompt share a part of it."""

    def __init__(self, tail: str, seed: int) -> None:
        self._draw = TAILS[tail]
        self._rng = np.random.default_rng(seed)
        self._sizes = RMS * np.exp(0.6 * self._rng.standard_normal((NUM_PROBES, 1)) - 0.18)
        self.base = self.gaps(0.0)
        self.tolerance = tolerance(RolloutSettings(dtype="bfloat16"), self.base)

    def gaps(self, error: NDArray[np.float64] | float) -> tuple[ProbeGap, ...]:
        """Gaps of a policy whose log-probabilities differ by ``error``, ``[P, T]``, under independent noise."""
        own = self._draw(self._rng, (NUM_PROBES, NUM_TOKENS))
        shared = self._rng.standard_normal((NUM_PROBES, 1))
        noise = self._sizes * (math.sqrt(0.75) * own + math.sqrt(0.25) * shared)
        probes = [ProbePrompt(token_ids=(0,) * (NUM_TOKENS + 1), logprobs=(0.0,) * NUM_TOKENS)] * NUM_PROBES
        return probe_gaps(probes, (noise + error).tolist())

    def movement(self, mean: float) -> NDArray[np.float64]:
        """Changes of log-probabilities by training, of this mean absolute size."""
        return self._rng.laplace(size=(NUM_PROBES, NUM_TOKENS)) * mean

    def verifies(self, error: NDArray[np.float64] | float) -> bool:
        return typical_gap(self.gaps(error)) <= self.tolerance


@pytest.mark.parametrize("tail", TAILS)
def test_rounding_noise_of_published_size_is_never_refused(tail: str) -> None:
    """In 600,000 simulated publishes of this kind none was refused; the largest gap was 0.93 of its tolerance."""
    samplers = [NoisySampler(tail, seed) for seed in range(60)]
    assert all(typical_gap(sampler.base) <= max_base_gap(RolloutSettings(dtype="bfloat16")) for sampler in samplers)
    assert all(sampler.verifies(0.0) for sampler in samplers for _ in range(8))


@pytest.mark.parametrize("tail", TAILS)
def test_wrong_stale_partial_and_scaled_policies_are_refused_after_a_thousand_steps(tail: str) -> None:
    moved = 0.25  # nats per token, by a thousand steps
    for sampler in (NoisySampler(tail, seed) for seed in range(60)):
        policy, another = sampler.movement(moved), sampler.movement(moved)
        assert not sampler.verifies(another - policy)
        assert not sampler.verifies(-policy)  # the base model, or an adapter from the first steps
        assert not sampler.verifies(-0.75 * policy)  # a quarter of the modules, or of the scale
        assert not sampler.verifies(policy)  # twice the scale


@pytest.mark.parametrize("tail", TAILS)
def test_a_single_step_is_below_the_noise_and_needs_the_comparison_of_weights(tail: str) -> None:
    sampler = NoisySampler(tail, seed=0)
    assert sampler.verifies(sampler.movement(2.5e-4))


@pytest.mark.parametrize("tail", TAILS)
def test_an_unlucky_probe_prompt_neither_refuses_a_policy_nor_raises_the_tolerance(tail: str) -> None:
    sampler = NoisySampler(tail, seed=0)
    unlucky = np.zeros((NUM_PROBES, NUM_TOKENS))
    unlucky[3] = 1.0
    assert sampler.verifies(unlucky)
    assert tolerance(RolloutSettings(dtype="bfloat16"), sampler.gaps(unlucky)) < 1.5 * sampler.tolerance


def quiet(mean: float) -> list[ProbeGap]:
    return [ProbeGap(num_tokens=NUM_TOKENS, mean=mean, spread=0.0)] * NUM_PROBES


@pytest.mark.parametrize(
    ("dtype", "mean", "expected"),
    [("float32", 1e-6, 1e-3), ("float32", 8e-4, 1.6e-3), ("bfloat16", 1e-4, 0.01), ("bfloat16", 0.02, 0.04)],
)
def test_the_tolerance_is_twice_the_noise_and_never_below_that_of_the_dtype(
    dtype: str, mean: float, expected: float
) -> None:
    assert tolerance(RolloutSettings(dtype=dtype), quiet(mean)) == pytest.approx(expected)


def test_a_configured_tolerance_replaces_the_measured_one_and_the_limit_of_the_base_model() -> None:
    settings = RolloutSettings(dtype="bfloat16", weight_sync_tolerance=0.2)
    assert tolerance(settings, quiet(0.02)) == max_base_gap(settings) == 0.2


@pytest.mark.parametrize(("dtype", "gap"), [("float32", 0.087), ("bfloat16", 0.087), ("bfloat16", 1.4)])
def test_a_base_model_that_is_computed_differently_is_above_the_limit(dtype: str, gap: float) -> None:
    assert gap > max_base_gap(RolloutSettings(dtype=dtype))


def test_a_verification_fails_with_all_its_causes_in_one_line() -> None:
    failure = Verification(
        policy_version=2, gap=1.4, tolerance=0.05, missing=("a",), surplus=("b",), differing=("c",)
    ).failure
    assert failure is not None
    assert failure.count(";") == 3 and "\n" not in failure
