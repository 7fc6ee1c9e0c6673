"""Scaling policies of graders and samplers, with a clock that the test advances."""

import itertools

import pytest

from cluster.actors.scaling import LoadWindow, PoolLoad, ScalingPolicy, desired_replicas
from cluster.errors import ConfigError
from cluster.types import Bounds, Usage
from grader.pool import SCALING as GRADERS
from rollout.pool import SCALING as SAMPLERS

BOUNDS = Bounds(minimum=2, maximum=16)


def load(
    num_ready: int = 8,
    *,
    num_wanted: int | None = None,
    wait: float = 0.0,
    recent: float | None = 0.45,
    window: float | None = 0.45,
    longest_wait: float = 0.0,
) -> PoolLoad:
    return PoolLoad(
        num_ready=num_ready,
        num_wanted=num_ready if num_wanted is None else num_wanted,
        wait_seconds=wait,
        recent_share=recent,
        window_share=window,
        longest_wait_seconds=longest_wait,
    )


def number(policy: ScalingPolicy, pool_load: PoolLoad, bounds: Bounds = BOUNDS) -> int:
    return desired_replicas(pool_load, bounds, policy)[0]


def usage(num_replicas: int, busy_seconds: float, capacity_seconds: float) -> Usage:
    return Usage(
        num_replicas=num_replicas,
        busy_seconds=busy_seconds,
        capacity_seconds=capacity_seconds,
        num_running=0,
        num_waiting=0,
    )


@pytest.mark.parametrize(("policy", "grown"), [(GRADERS, 12), (SAMPLERS, 10)])
def test_work_that_waits_for_busy_replicas_adds_a_share_of_them_up_to_the_maximum(
    policy: ScalingPolicy, grown: int
) -> None:
    assert number(policy, load(wait=policy.scale_up_wait_seconds, recent=0.9)) == grown
    assert number(policy, load(wait=policy.scale_up_wait_seconds - 0.1, recent=0.9)) == 8
    assert number(policy, load(2, wait=60.0, recent=1.0)) == 3
    assert number(policy, load(15, wait=60.0, recent=1.0)) == 16
    reason = desired_replicas(load(wait=25.4, recent=0.9), BOUNDS, policy)[1]
    assert reason == f"a {policy.unit} has waited 25.4 s"


def test_waiting_groups_add_no_samplers_while_samplers_are_mostly_idle() -> None:
    assert number(SAMPLERS, load(wait=60.0, recent=SAMPLERS.busy_share)) == 8
    assert number(GRADERS, load(wait=60.0, recent=SAMPLERS.busy_share)) == 12


@pytest.mark.parametrize("policy", [GRADERS, SAMPLERS])
def test_a_pool_does_not_grow_before_the_last_increase_has_taken_effect(policy: ScalingPolicy) -> None:
    assert number(policy, load(wait=60.0, recent=None)) == 8
    assert number(policy, load(wait=60.0, recent=1.0, num_wanted=10)) == 10


@pytest.mark.parametrize("policy", [GRADERS, SAMPLERS])
def test_idle_replicas_are_drained_but_no_more_than_half_and_not_below_the_minimum(policy: ScalingPolicy) -> None:
    assert number(policy, load(window=policy.idle_share - 0.01)) == 4
    assert number(policy, load(window=0.0)) == 4
    assert number(policy, load(3, window=0.0)) == 2
    assert number(policy, load(2, window=0.0)) == 2
    assert number(policy, load(window=policy.idle_share)) == 8
    assert number(policy, load(window=None)) == 8
    # Replicas that wait for resources are no longer requested.
    assert number(policy, load(num_wanted=16, window=0.0)) == 4
    assert desired_replicas(load(window=0.05), BOUNDS, policy)[1] == f"busy 5% of the last {policy.window_seconds:g} s"


def test_idle_graders_are_kept_while_completions_sometimes_wait() -> None:
    assert number(GRADERS, load(window=0.05, longest_wait=GRADERS.scale_down_wait_seconds)) == 8
    assert number(SAMPLERS, load(window=0.05, longest_wait=GRADERS.scale_down_wait_seconds)) == 4


@pytest.mark.parametrize("policy", [GRADERS, SAMPLERS])
def test_equal_bounds_fix_the_number_of_replicas(policy: ScalingPolicy) -> None:
    same = Bounds(minimum=8, maximum=8)
    for pool_load in (load(wait=1e6, recent=1.0), load(window=0.0)):
        assert number(policy, pool_load, same) == 8


@pytest.mark.parametrize("policy", [GRADERS, SAMPLERS])
def test_scaling_down_leads_to_no_more_than_the_target_share(policy: ScalingPolicy) -> None:
    for num, share in itertools.product(range(3, 200), (0.01, 0.1, 0.19)):
        fewer = number(policy, load(num, window=share), Bounds(minimum=1, maximum=200))
        assert fewer >= num / 2
        assert num * share / fewer <= policy.target_share + 1e-9


@pytest.mark.parametrize("num_samplers", range(1, 17))
def test_scaling_in_one_direction_does_not_trigger_the_other(num_samplers: int) -> None:
    """The same work, spread over another number of samplers, stays between the two shares."""
    bounds = Bounds(minimum=1, maximum=100)
    for percent in range(101):
        share = percent / 100
        wait = SAMPLERS.scale_up_wait_seconds if share > SAMPLERS.idle_share else 0.0
        after = number(SAMPLERS, load(num_samplers, wait=wait, recent=share, window=share), bounds)
        spread = min(1.0, share * num_samplers / after)
        if after > num_samplers:
            assert spread > SAMPLERS.idle_share
        if after < num_samplers:
            assert spread <= SAMPLERS.busy_share


def test_a_window_has_both_shares_once_it_is_long_enough_and_restarts_when_the_number_of_replicas_changes() -> None:
    window = LoadWindow(SAMPLERS)
    for second in range(0, 601, 10):
        # Idle for 8 minutes, then busy.
        busy = 2.0 * max(0, second - 480)
        window.add(float(second), usage(2, busy, 2.0 * second), 3.0 if second == 300 else 0.0)
        if second < 120:
            assert window.load(2).recent_share is None
        if second < 600:
            assert window.load(2).window_share is None
    pool_load = window.load(3)
    assert (pool_load.num_ready, pool_load.num_wanted, pool_load.wait_seconds, pool_load.longest_wait_seconds) == (
        2,
        3,
        0.0,
        3.0,
    )
    assert pool_load.recent_share == pytest.approx(1.0)
    assert pool_load.window_share == pytest.approx(0.2)
    for second in range(610, 960, 10):
        window.add(float(second), usage(2, 240.0, 2.0 * second), 0.0)
    assert window.load(2).longest_wait_seconds == 0.0  # the wait at 300 s has left the window
    window.add(960.0, usage(3, 250.0, 1930.0), 7.0)
    pool_load = window.load(3)
    assert (pool_load.recent_share, pool_load.window_share, pool_load.wait_seconds) == (None, None, 7.0)


def simulated_graders(arrivals_per_second: dict[int, int], seconds: int) -> list[int]:
    """Return the number of graders in every second; each grader finishes one completion a second."""
    window, num, queue = LoadWindow(GRADERS), 2, list[int]()
    busy = capacity = 0.0
    numbers, rate = [], 0
    for now in range(seconds):
        rate = arrivals_per_second.get(now, rate)
        queue += [now] * rate
        done = min(num, len(queue))
        queue = queue[done:]
        busy, capacity = busy + done, capacity + num
        window.add(float(now), usage(num, busy, capacity), float(now - queue[0]) if queue else 0.0)
        num = number(GRADERS, window.load(num))
        numbers.append(num)
    return numbers


def test_the_number_of_graders_follows_the_load_without_oscillating() -> None:
    numbers = simulated_graders({0: 1, 100: 10, 1000: 1, 3000: 0}, 5000)
    assert set(numbers[:100]) == {2}
    assert 10 <= numbers[400] <= 16
    assert len(set(numbers[400:1000])) == 1
    assert numbers[2900] in (2, 3) and numbers[4999] == 2
    changes = [(before, after) for before, after in itertools.pairwise(numbers) if before != after]
    directions = [after > before for before, after in changes]
    assert directions == sorted(directions, reverse=True), changes


def test_a_scale_request_becomes_bounds_or_is_refused() -> None:
    assert BOUNDS.changed("graders", 64, None, None) == Bounds(minimum=64, maximum=64)
    assert BOUNDS.changed("graders", None, 4, None) == Bounds(minimum=4, maximum=16)
    assert BOUNDS.changed("graders", None, None, 3) == Bounds(minimum=2, maximum=3)
    assert BOUNDS.changed("graders", 32, 8, None) == Bounds(minimum=8, maximum=32)
    assert BOUNDS.changed("graders", 1, None, 64) == Bounds(minimum=1, maximum=64)
    with pytest.raises(ConfigError, match="min_graders=20 and max_graders=16 contradict"):
        BOUNDS.changed("graders", None, 20, None)
    with pytest.raises(ConfigError, match="min_graders=2 and max_graders=8 and graders=9 contradict"):
        BOUNDS.changed("graders", 9, None, 8)
