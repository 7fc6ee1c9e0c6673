"""Verification that a sampler serves a policy: tolerance, modules, weights."""

import pytest

from cluster.errors import ModelError
from cluster.types import PolicyVersion, ProbePrompt
from rollout.settings import RolloutSettings
from rollout.weight_sync import BoundAdapter, mean_gap, verify, verify_base_model

MODULES = tuple(f"model.layers.{layer}.self_attn.q_proj" for layer in range(9))
PROBE = ProbePrompt(token_ids=(5, 6, 7, 8), logprobs=(-1.0, -2.0, -3.0))
POLICY = PolicyVersion(number=3, adapter={}, modules=MODULES, probe=PROBE)
WHOLE = BoundAdapter(named=MODULES, bound=MODULES, differing=())


def test_the_right_adapter_is_verified_and_its_gap_reported() -> None:
    verification = verify(POLICY, WHOLE, (-1.0, -2.0003, -3.0), RolloutSettings())
    assert verification.failure is None
    assert verification.gap == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("dtype", "gap", "is_verified"), [("float32", 0.01, False), ("bfloat16", 0.01, True), ("bfloat16", 0.1, False)]
)
def test_the_tolerance_follows_the_dtype(dtype: str, gap: float, is_verified: bool) -> None:
    logprobs = tuple(logprob - gap for logprob in PROBE.logprobs)
    assert (verify(POLICY, WHOLE, logprobs, RolloutSettings(dtype=dtype)).failure is None) == is_verified


def test_a_configured_tolerance_replaces_the_default() -> None:
    logprobs = (-1.0, -2.0, -3.3)
    assert verify(POLICY, WHOLE, logprobs, RolloutSettings(weight_sync_tolerance=0.2)).failure is None
    failure = verify(POLICY, WHOLE, logprobs, RolloutSettings(weight_sync_tolerance=0.05)).failure
    assert failure is not None and "0.1 nats per token" in failure


@pytest.mark.parametrize("logprobs", [(float("nan"), -2.0, -3.0), (float("-inf"), -2.0, -3.0)])
def test_logprobs_that_are_not_finite_fail(logprobs: tuple[float, ...]) -> None:
    assert verify(POLICY, WHOLE, logprobs, RolloutSettings()).failure is not None


def test_an_adapter_that_is_bound_to_nothing_fails_with_its_missing_modules_some_by_name() -> None:
    unbound = BoundAdapter(named=tuple(f"wrong.{name}" for name in MODULES), bound=(), differing=())
    failure = verify(POLICY, unbound, PROBE.logprobs, RolloutSettings()).failure
    assert failure is not None
    assert "9 trained modules are not bound (model.layers.0.self_attn.q_proj" in failure
    assert "and 3 more" in failure
    assert "\n" not in failure


def test_untrained_modules_and_other_weights_are_reported_by_name() -> None:
    other = BoundAdapter(named=MODULES, bound=(*MODULES, "lm_head"), differing=(MODULES[4],))
    failure = verify(POLICY, other, PROBE.logprobs, RolloutSettings()).failure
    assert failure is not None
    assert "1 modules are bound that were not trained (lm_head)" in failure
    assert f"other weights than were published ({MODULES[4]})" in failure


def test_without_published_module_names_the_adapters_own_names_must_be_bound() -> None:
    policy = PolicyVersion(number=1, adapter={})
    assert verify(policy, WHOLE, None, RolloutSettings()).failure is None
    assert verify(policy, BoundAdapter(named=MODULES, bound=MODULES[1:], differing=()), None, RolloutSettings()).failure


def test_a_probe_prompt_that_was_scored_in_part_is_an_error() -> None:
    with pytest.raises(ModelError, match="4 tokens came with 3 log-probabilities and was scored with 2"):
        mean_gap(PROBE, (-1.0, -2.0))


def test_the_base_model_has_the_tolerance_of_a_policy_and_no_modules() -> None:
    assert verify_base_model(PROBE, PROBE.logprobs, RolloutSettings()).failure is None
    verification = verify_base_model(PROBE, (-3.0, -4.0, -5.0), RolloutSettings())
    assert verification.gap == pytest.approx(2.0)
    assert verification.failure is not None and "2 nats per token" in verification.failure
