"""The pool's pure parts: live policies, room in the cluster."""

from rollout.policies import LivePolicies
from rollout.room import num_that_fit
from rollout.settings import RolloutSettings


def test_a_superseded_policy_is_kept_until_its_groups_are_done():
    policies = LivePolicies()
    assert policies.acquire() == 0  # the base model needs no adapter
    assert policies.add(1, "one") == {1}
    policies.promote(1)
    held = policies.acquire()
    assert policies.add(2, "two") == {1, 2}
    policies.promote(2)
    assert policies.add(3, "three") == {1, 2, 3}
    policies.promote(3)
    policies.release(held)
    assert policies.add(4, "four") == {3, 4}
    assert list(policies.handles()) == [(3, "three"), (4, "four")]


def test_the_current_policy_is_kept_while_the_next_is_loaded():
    policies = LivePolicies()
    policies.add(1, "one")
    policies.promote(1)
    assert policies.add(2, "two") == {1, 2}


def test_samplers_fit_only_as_a_whole_on_one_machine():
    bundle = RolloutSettings(cpus_per_sampler=3, gpus_per_sampler=0.3).bundle
    assert num_that_fit(bundle, [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]) == 1
    assert num_that_fit(bundle, [{"CPU": 16.0, "GPU": 0.9}]) == 3
    assert num_that_fit(bundle, [{"CPU": 16.0}]) == 0
    assert num_that_fit(RolloutSettings().bundle, [{"CPU": 4.0}]) == 4
    large = RolloutSettings(gpus_per_sampler=0.66).bundle
    assert num_that_fit(large, [{"CPU": 16.0, "GPU": 2.0}]) == 2  # none of them over both GPUs
    split = RolloutSettings(tensor_parallel_size=4, gpus_per_sampler=1).bundle
    assert num_that_fit(split, [{"CPU": 16.0, "GPU": 7.0}, {"CPU": 16.0, "GPU": 8.0}]) == 3
