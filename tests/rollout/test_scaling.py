"""When the number of samplers changes, by a clock that the test turns."""

import asyncio

import pytest

from cluster.types import Bounds, Usage
from rollout.dispatcher import Router, Seat
from rollout.scaling import Load, Pace, Window, decide

PACE = Pace()
BOUNDS = Bounds(minimum=2, maximum=16)


def load(**changes) -> Load:
    steady = {"num_samplers": 8, "num_wanted": 8, "wait_seconds": 0.0, "recent_share": 0.4, "window_share": 0.4}
    return Load(**{**steady, **changes})


def number(**changes) -> int:
    return decide(load(**changes), BOUNDS, PACE)[0]


def usage(num_replicas: int, busy_seconds: float, capacity_seconds: float) -> Usage:
    return Usage(
        num_replicas=num_replicas,
        busy_seconds=busy_seconds,
        capacity_seconds=capacity_seconds,
        num_running=0,
        num_waiting=0,
    )


def test_groups_that_wait_for_busy_samplers_bring_a_quarter_more_up_to_the_ceiling():
    assert number(wait_seconds=PACE.wait_seconds, recent_share=0.9) == 10
    assert number(wait_seconds=PACE.wait_seconds - 0.1, recent_share=0.9) == 8
    assert number(num_samplers=2, num_wanted=2, wait_seconds=60.0, recent_share=1.0) == 3
    assert number(num_samplers=15, num_wanted=15, wait_seconds=60.0, recent_share=1.0) == 16
    assert decide(load(wait_seconds=25.4, recent_share=0.9), BOUNDS, PACE)[1] == "a group has waited 25 s for a place"


def test_groups_that_wait_for_samplers_which_idle_most_of_the_time_bring_none():
    assert number(wait_seconds=60.0, recent_share=PACE.busy_share) == 8


def test_the_pool_does_not_grow_before_the_last_ones_are_there_and_have_been_for_long():
    assert number(wait_seconds=60.0, recent_share=None) == 8
    assert number(wait_seconds=60.0, recent_share=1.0, num_wanted=10) == 10


def test_idle_samplers_go_but_by_no_more_than_half_and_not_below_the_floor():
    assert number(window_share=0.19) == 4
    assert number(window_share=0.0) == 4
    assert number(num_samplers=3, num_wanted=3, window_share=0.0) == 2
    assert number(num_samplers=2, num_wanted=2, window_share=0.0) == 2
    assert number(window_share=PACE.idle_share) == 8
    assert number(window_share=None) == 8
    # Those that found no place are no longer wanted either.
    assert number(num_wanted=16, window_share=0.0) == 4


def test_equal_bounds_hold_whatever_happens():
    same = Bounds(minimum=8, maximum=8)
    for changes in ({"wait_seconds": 1e6, "recent_share": 1.0}, {"window_share": 0.0}):
        assert decide(load(**changes), same, PACE)[0] == 8


@pytest.mark.parametrize("num_samplers", range(1, 17))
def test_what_grew_does_not_shrink_for_it_and_what_shrank_does_not_grow(num_samplers):
    """The same work, spread over another number of samplers, is between the two shares."""
    bounds = Bounds(minimum=1, maximum=100)
    for percent in range(101):
        share = percent / 100
        before = load(
            num_samplers=num_samplers,
            num_wanted=num_samplers,
            wait_seconds=PACE.wait_seconds if share > PACE.idle_share else 0.0,
            recent_share=share,
            window_share=share,
        )
        after, _ = decide(before, bounds, PACE)
        spread = min(1.0, share * num_samplers / after)
        if after > num_samplers:
            assert spread > PACE.idle_share
        if after < num_samplers:
            assert spread <= PACE.busy_share


def test_a_window_tells_both_shares_and_begins_anew_with_another_number():
    window = Window(PACE)
    for second in range(0, 601, 10):
        # Idle for 8 minutes, then busy.
        window.add(float(second), usage(2, busy_seconds=2.0 * max(0, second - 480), capacity_seconds=2.0 * second))
        if second < 120:
            assert window.load(2, 0.0).recent_share is None
        if second < 600:
            assert window.load(2, 0.0).window_share is None
    both = window.load(3, 7.0)
    assert (both.num_samplers, both.num_wanted, both.wait_seconds) == (2, 3, 7.0)
    assert both.recent_share == pytest.approx(1.0)
    assert both.window_share == pytest.approx(0.2)
    window.add(610.0, usage(3, 250.0, 1230.0))
    assert (window.load(3, 0.0).recent_share, window.load(3, 0.0).window_share) == (None, None)


def test_the_oldest_wait_is_that_of_the_first_group_without_a_place_and_none_that_waits_to_be_alone():
    async def scenario():
        router, seat = Router(max_running=4), Seat(name="a")
        router.open(seat)
        await router.take(4)
        assert router.oldest_wait_seconds() == 0.0
        first = asyncio.create_task(router.take(4))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(router.take(4))
        await asyncio.sleep(0.01)
        assert 0.05 <= router.oldest_wait_seconds() < 5
        first.cancel()
        await asyncio.sleep(0)
        assert 0.01 <= router.oldest_wait_seconds() < 0.05
        router.give_back(seat, 4)
        await second
        assert router.oldest_wait_seconds() == 0.0
        alone = asyncio.create_task(router.take(1, alone=True))
        await asyncio.sleep(0.01)
        assert router.oldest_wait_seconds() == 0.0
        alone.cancel()

    asyncio.run(scenario())


def test_a_seat_that_is_shut_becomes_idle_when_what_it_had_has_ended():
    async def scenario():
        router, seat, other = Router(max_running=4), Seat(name="a"), Seat(name="b")
        router.open(seat)
        await router.take(3)
        router.shut(seat)
        router.open(other)
        assert not seat.idle.is_set()
        assert await router.take(4) is other
        router.give_back(seat, 2)
        assert not seat.idle.is_set()
        router.give_back(seat, 1)
        assert seat.idle.is_set()
        router.remove(seat)
        assert router.usage().num_replicas == 1
        assert router.usage().num_running == 4

    asyncio.run(scenario())
