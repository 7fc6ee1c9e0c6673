"""Which sampler gets the next group, and in what order groups wait."""

import asyncio
import time

import pytest

from cluster.errors import ModelError, SamplerError
from rollout.dispatcher import Router, Seat


def test_the_least_loaded_sampler_gets_the_group():
    async def scenario():
        router, seats = Router(max_running=64), [Seat(name=name) for name in "abc"]
        for seat in seats:
            router.open(seat)
        taken = [(await router.take(6)).name for _ in range(4)]
        assert sorted(taken[:3]) == ["a", "b", "c"]
        router.give_back(seats[1], 5)
        assert await router.take(6) is seats[1]

    asyncio.run(scenario())


def test_a_group_waits_while_all_samplers_are_full_and_goes_on_when_one_is_not():
    async def scenario():
        router, seat = Router(max_running=6), Seat(name="a")
        router.open(seat)
        await router.take(6)
        waiting = asyncio.create_task(router.take(6))
        await asyncio.sleep(0)
        assert not waiting.done()
        router.give_back(seat, 1)
        assert await waiting is seat
        assert seat.num_running == 11  # a group is not split: it may overshoot by less than its size

    asyncio.run(scenario())


def test_a_shut_sampler_gets_no_work_until_it_is_opened_again():
    async def scenario():
        router, seat = Router(max_running=6), Seat(name="a")
        router.open(seat)
        router.shut(seat)
        waiting = asyncio.create_task(router.take(1))
        await asyncio.sleep(0)
        assert not waiting.done()
        router.open(seat)
        assert await waiting is seat

    asyncio.run(scenario())


def test_nobody_waits_for_a_pool_that_failed():
    async def scenario():
        router = Router(max_running=6)
        waiting = asyncio.create_task(router.take(1))
        await asyncio.sleep(0)
        router.fail(SamplerError("the first reason"))
        router.fail(SamplerError("a later one"))
        for failed in (waiting, router.take(1)):
            with pytest.raises(SamplerError, match="the first reason"):
                await failed

    asyncio.run(scenario())


def test_a_waiter_that_gives_up_takes_no_seat():
    async def scenario():
        router, seat = Router(max_running=1), Seat(name="a")
        router.open(seat)
        await router.take(1)
        waiting = asyncio.create_task(router.take(1))
        await asyncio.sleep(0)
        waiting.cancel()
        router.give_back(seat, 1)
        await asyncio.gather(waiting, return_exceptions=True)
        assert seat.num_running == 0

    asyncio.run(scenario())


def test_groups_get_their_seats_in_the_order_they_came_whatever_their_size():
    async def scenario():
        router, seat = Router(max_running=8), Seat(name="a")
        router.open(seat)
        await router.take(8)
        order = []

        async def wait(size):
            await router.take(size)
            order.append(size)

        tasks = [asyncio.create_task(wait(size)) for size in (64, 1, 32, 2)]
        await asyncio.sleep(0)
        while len(order) < 4:
            router.give_back(seat, seat.num_running)
            await asyncio.sleep(0)
        assert order == [64, 1, 32, 2]
        assert all(task.done() for task in tasks)

    asyncio.run(scenario())


def test_a_group_that_is_to_run_alone_gets_an_empty_seat_and_keeps_others_off_it():
    async def scenario():
        router, seats = Router(max_running=64), [Seat(name="a"), Seat(name="b")]
        for seat in seats:
            router.open(seat)
        taken = [await router.take(4), await router.take(6)]
        alone = asyncio.create_task(router.take(2, alone=True))
        await asyncio.sleep(0)
        assert not alone.done()
        assert await router.take(10) is taken[1]  # the other one is being emptied
        router.give_back(taken[0], 4)
        assert await alone is taken[0]
        assert await router.take(1) is taken[1]
        router.give_back(taken[0], 2)
        assert await router.take(1) is taken[0]

    asyncio.run(scenario())


def test_a_group_that_is_to_run_alone_goes_elsewhere_when_the_seat_it_waits_for_is_shut():
    async def scenario():
        router, seats = Router(max_running=64), [Seat(name="a"), Seat(name="b")]
        for seat in seats:
            router.open(seat)
        await router.take(4)
        await router.take(6)
        alone = asyncio.create_task(router.take(2, alone=True))
        await asyncio.sleep(0)
        router.shut(seats[0])
        router.give_back(seats[0], 4)
        await asyncio.sleep(0)
        assert not alone.done()
        router.give_back(seats[1], 6)
        assert await alone is seats[1]

    asyncio.run(scenario())


def test_whoever_no_longer_wants_to_run_alone_leaves_the_seat_to_others():
    async def scenario():
        router, seat = Router(max_running=64), Seat(name="a")
        router.open(seat)
        await router.take(4)
        alone = asyncio.create_task(router.take(2, alone=True))
        await asyncio.sleep(0)
        alone.cancel()
        await asyncio.gather(alone, return_exceptions=True)
        assert await router.take(1) is seat

    asyncio.run(scenario())


def test_usage_counts_seconds_with_work_and_who_waits():
    async def scenario():
        router, seats = Router(max_running=4), [Seat(name="a"), Seat(name="b")]
        for seat in seats:
            router.open(seat)
        begin = time.monotonic()
        await router.take(4)
        await router.take(4)
        waiting = asyncio.create_task(router.take(3))
        await asyncio.sleep(0.05)
        usage = router.usage()
        assert (usage.num_replicas, usage.num_running, usage.num_waiting) == (2, 8, 3)
        assert 0.1 <= usage.busy_seconds <= 2 * (time.monotonic() - begin)
        router.give_back(seats[0], 4)
        router.give_back(seats[1], 4)
        router.give_back(await waiting, 3)
        ended = router.usage().busy_seconds
        await asyncio.sleep(0.02)
        assert (router.usage().busy_seconds, router.usage().num_running, router.usage().num_waiting) == (ended, 0, 0)

    asyncio.run(scenario())


def test_a_wait_for_any_open_sampler_ends_when_one_opens_or_the_pool_fails():
    async def scenario():
        router, seat = Router(max_running=4), Seat(name="a")
        router.open(seat)
        await router.until_open()
        router.shut(seat)
        waiting = asyncio.create_task(router.until_open())
        await asyncio.sleep(0)
        assert not waiting.done()
        router.open(seat)
        await waiting
        router.shut(seat)
        router.fail(ModelError("no proof"))
        with pytest.raises(ModelError, match="no proof"):
            await router.until_open()

    asyncio.run(scenario())


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
