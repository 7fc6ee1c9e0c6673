import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.loop.buffer import Buffer, InFlightLimit
from cluster.loop.filters import GroupFilter
from cluster.types import Outcome
from tests.cluster.records import group


def buffer(*, drop: bool = False, size: int = 2) -> Buffer:
    return Buffer(
        groups_per_step=size,
        group_filter=GroupFilter(drop_without_signal=drop),
        max_filtered_per_step=8 * size,
    )


def test_a_batch_is_ready_when_enough_groups_are_complete() -> None:
    async def scenario() -> None:
        waiting = buffer()
        taking = asyncio.create_task(waiting.take())
        waiting.add(group([0.0, 1.0]))
        await asyncio.sleep(0)
        assert not taking.done()
        waiting.add(group([0.0, 1.0]))
        assert len(await taking) == 2

    asyncio.run(scenario())


def test_groups_of_the_oldest_policy_are_taken_first() -> None:
    async def scenario() -> list[int]:
        mixed = buffer()
        for version in (1, 0, 1, 0):
            mixed.add(group([0.0, 1.0], version=version))
        return [one.policy_version for one in (*await mixed.take(), *await mixed.take())]

    assert asyncio.run(scenario()) == [0, 0, 1, 1]


def test_a_group_without_signal_is_dropped_only_if_configured() -> None:
    assert buffer().add(group([0.5, 0.5])) is None
    dropped = buffer(drop=True).add(group([0.5, 0.5]))
    assert dropped is not None
    assert (dropped.drop.outcome, dropped.drop.reason) == (Outcome.FILTERED, "no_signal")


def test_a_group_with_fewer_than_two_grades_fails() -> None:
    dropped = buffer().add(group([1.0, None]))
    assert dropped is not None
    assert dropped.drop.outcome is Outcome.FAILED


def test_the_filter_is_suspended_if_no_group_has_signal() -> None:
    stuck = buffer(drop=True, size=1)
    outcomes = [stuck.add(group([0.0, 0.0])) for _ in range(9)]
    assert [outcome is None for outcome in outcomes] == [False] * 8 + [True]
    assert stuck.is_filter_suspended


def test_a_group_that_the_next_step_could_not_train_is_stale() -> None:
    limit = InFlightLimit(groups_per_step=2, max_staleness=1, num_groups=10)
    aging = buffer()
    old, fresh = group([0.0, 1.0], version=0), group([0.0, 1.0], version=1)
    aging.add(old)
    aging.add(fresh)
    limit.next_version = 1
    assert aging.remove_stale(limit.is_stale) == []
    limit.next_version = 2
    assert aging.remove_stale(limit.is_stale) == [old]
    assert aging.remove_stale(limit.is_stale) == []


def test_no_group_starts_that_would_be_stale_at_once() -> None:
    async def scenario() -> list[int]:
        limit = InFlightLimit(groups_per_step=2, max_staleness=0, num_groups=10, oversampling=2)
        await limit.acquire()
        limit.next_version = 1  # the learner works on version 1 while the samplers still serve 0
        waiting = asyncio.create_task(limit.acquire())
        await asyncio.sleep(0.01)
        held = [limit.in_flight]
        await limit.release(published=1)
        await waiting
        return [*held, limit.in_flight]

    assert asyncio.run(scenario()) == [1, 2]


def test_a_batch_is_in_the_order_of_its_requests() -> None:
    async def scenario() -> list[str]:
        waiting = buffer(size=3)
        for number in (2, 0, 1):
            waiting.add(group([0.0, 1.0], group_id=f"g{number:07d}"))
        return [one.id for one in await waiting.take()]

    assert asyncio.run(scenario()) == ["g0000000", "g0000001", "g0000002"]


def test_oversampling_raises_the_limit_for_every_step_in_flight() -> None:
    assert InFlightLimit(groups_per_step=4, max_staleness=1, num_groups=100, oversampling=1.3).limit == 12


@pytest.mark.parametrize(("staleness", "capacity"), [(0, 3), (1, 6), (4, 15)])
def test_the_in_flight_limit_follows_from_the_staleness(staleness: int, capacity: int) -> None:
    async def scenario() -> int:
        limit = InFlightLimit(groups_per_step=3, max_staleness=staleness, num_groups=100)
        waiting = [asyncio.create_task(limit.acquire()) for _ in range(20)]
        await asyncio.sleep(0.01)
        held = limit.in_flight
        for task in waiting:
            task.cancel()
        return held

    assert asyncio.run(scenario()) == capacity


def test_no_group_starts_that_the_run_will_not_train() -> None:
    async def scenario() -> int:
        limit = InFlightLimit(groups_per_step=2, max_staleness=1, num_groups=3)
        waiting = [asyncio.create_task(limit.acquire()) for _ in range(5)]
        await asyncio.sleep(0.01)
        await limit.release(trained=2)
        await asyncio.sleep(0.01)
        held = limit.in_flight
        for task in waiting:
            task.cancel()
        return held

    assert asyncio.run(scenario()) == 1


@given(st.integers(1, 4), st.integers(0, 4), st.integers(1, 8))
def test_a_group_trained_in_order_is_never_staler_than_the_bound(size: int, staleness: int, steps: int) -> None:
    async def scenario() -> None:
        limit = InFlightLimit(groups_per_step=size, max_staleness=staleness, num_groups=size * steps)
        served_version = 0
        sampled_versions: list[int] = []

        async def sample() -> None:
            while True:
                await limit.acquire()
                sampled_versions.append(served_version)

        sampling = asyncio.create_task(sample())
        for step in range(steps):
            while len(sampled_versions) < size:  # noqa: ASYNC110
                await asyncio.sleep(0)
            batch = [sampled_versions.pop(0) for _ in range(size)]
            limit.next_version = step + 1
            assert all(step - version <= staleness for version in batch)
            served_version = step + 1
            await limit.release(trained=size, published=served_version)
        sampling.cancel()

    asyncio.run(scenario())
