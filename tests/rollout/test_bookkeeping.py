"""Live policies of a pool."""

from rollout.policies import LivePolicies


def test_a_superseded_policy_is_kept_until_its_groups_are_done() -> None:
    policies = LivePolicies[str]()
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


def test_the_current_policy_is_kept_while_the_next_is_loaded() -> None:
    policies = LivePolicies[str]()
    policies.add(1, "one")
    policies.promote(1)
    assert policies.add(2, "two") == {1, 2}
