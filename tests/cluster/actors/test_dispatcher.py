"""Assignment of work to workers, and the order of waiting work."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from cluster.actors.dispatcher import Dispatcher, Worker
from cluster.errors import ModelError, SamplerError, UngradableError

Scenario = Callable[[], Awaitable[None]]


def pool(*names: str, max_load: int) -> tuple[Dispatcher[Worker], list[Worker]]:
    dispatcher, workers = Dispatcher[Worker](max_load), [Worker(name=name) for name in names]
    for worker in workers:
        dispatcher.add(worker)
    return dispatcher, workers


async def queued(dispatcher: Dispatcher[Worker], load: int, **options: object) -> "asyncio.Task[Worker]":
    """Return a task that waits for a worker."""
    task = asyncio.create_task(dispatcher.take(load, **options))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    return task


async def cancel(task: "asyncio.Task[Worker]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def run(scenario: Scenario) -> Scenario:
    """Turn a coroutine function into a test."""

    def test() -> None:
        asyncio.run(scenario())  # type: ignore[arg-type]

    test.__name__ = scenario.__name__
    return test  # type: ignore[return-value]


@run
async def test_the_least_loaded_worker_gets_the_work() -> None:
    dispatcher, workers = pool("a", "b", "c", max_load=64)
    taken = [(await dispatcher.take(6)).name for _ in range(4)]
    assert sorted(taken[:3]) == ["a", "b", "c"]
    dispatcher.release(workers[1], 5)
    assert await dispatcher.take(6) is workers[1]


@run
async def test_work_waits_while_all_workers_are_full_and_is_not_split() -> None:
    dispatcher, (worker,) = pool("a", max_load=6)
    await dispatcher.take(6)
    waiting = await queued(dispatcher, 6)
    assert not waiting.done()
    dispatcher.release(worker)
    assert await waiting is worker
    assert worker.load == 11  # the load may exceed the limit by less than one request


@run
async def test_a_removed_worker_gets_no_work_until_it_is_added_again() -> None:
    dispatcher, (worker,) = pool("a", max_load=6)
    dispatcher.remove(worker)
    dispatcher.remove(worker)
    waiting = await queued(dispatcher, 1)
    assert not waiting.done()
    dispatcher.add(worker)
    assert await waiting is worker


@run
async def test_a_failed_dispatcher_refuses_all_work_with_the_first_reason() -> None:
    dispatcher, _ = pool(max_load=6)
    waiting = await queued(dispatcher, 1)
    dispatcher.fail(SamplerError("the first reason"))
    dispatcher.fail(SamplerError("a later one"))
    for refused in (waiting, dispatcher.take(1)):
        with pytest.raises(SamplerError, match="the first reason"):
            await refused


@run
async def test_fail_waiting_refuses_only_the_work_that_waits() -> None:
    dispatcher, _ = pool(max_load=6)
    waiting = await queued(dispatcher, 1)
    dispatcher.fail_waiting(UngradableError("no worker is ready"))
    with pytest.raises(UngradableError, match="no worker is ready"):
        await waiting
    later = await queued(dispatcher, 1)
    dispatcher.add(Worker(name="a"))
    assert (await later).name == "a"


@run
async def test_a_cancelled_request_takes_no_worker_even_when_it_just_got_one() -> None:
    dispatcher, (worker,) = pool("a", max_load=1)
    await dispatcher.take()
    waiting = await queued(dispatcher, 1)
    await cancel(waiting)
    assert dispatcher.oldest_wait_seconds() == 0.0
    unlucky = await queued(dispatcher, 1)
    dispatcher.release(worker)  # in the same iteration of the event loop
    await cancel(unlucky)
    assert worker.load == 0
    assert worker.idle.is_set()


@run
async def test_work_of_any_size_is_dispatched_in_queue_order() -> None:
    dispatcher, (worker,) = pool("a", max_load=8)
    await dispatcher.take(8)
    order: list[int] = []

    async def wait(size: int) -> None:
        await dispatcher.take(size)
        order.append(size)

    tasks = [asyncio.create_task(wait(size)) for size in (64, 1, 32, 2)]
    await asyncio.sleep(0)
    while len(order) < 4:
        dispatcher.release(worker, worker.load)
        await asyncio.sleep(0)
    assert order == [64, 1, 32, 2]
    assert all(task.done() for task in tasks)


@run
async def test_a_retry_keeps_its_place_in_the_queue() -> None:
    dispatcher, (first, second) = pool("a", "b", max_load=2)
    assert [(await dispatcher.take()).name for _ in range(4)] == ["a", "b", "a", "b"]
    now = asyncio.get_running_loop().time()
    late = await queued(dispatcher, 1, since=now - 1)
    early = await queued(dispatcher, 1, since=now - 2)
    assert dispatcher.oldest_wait_seconds() < 1  # counted from when it was queued, not from its first attempt
    dispatcher.release(second)
    assert await early is second
    assert not late.done()
    dispatcher.release(first)
    assert await late is first


@run
async def test_exclusive_work_gets_an_idle_worker_and_keeps_other_work_away() -> None:
    dispatcher, _ = pool("a", "b", max_load=64)
    taken = [await dispatcher.take(4), await dispatcher.take(6)]
    exclusive = await queued(dispatcher, 2, exclusive=True)
    assert not exclusive.done()
    assert await dispatcher.take(10) is taken[1]  # the other worker must become idle
    dispatcher.release(taken[0], 4)
    assert await exclusive is taken[0]
    assert await dispatcher.take(1) is taken[1]
    dispatcher.release(taken[0], 2)
    assert await dispatcher.take(1) is taken[0]


@pytest.mark.parametrize("leave", [Dispatcher.drain, Dispatcher.remove])
def test_exclusive_work_is_reassigned_when_the_worker_that_it_waits_for_leaves(leave: Callable[..., None]) -> None:
    async def scenario() -> None:
        dispatcher, workers = pool("a", "b", max_load=64)
        await dispatcher.take(4)
        await dispatcher.take(6)
        exclusive = await queued(dispatcher, 2, exclusive=True)
        leave(dispatcher, workers[0])
        dispatcher.release(workers[0], 4)
        await asyncio.sleep(0)
        assert not exclusive.done()
        dispatcher.release(workers[1], 6)
        assert await exclusive is workers[1]

    asyncio.run(scenario())


@run
async def test_cancelled_exclusive_work_leaves_the_worker_to_others() -> None:
    dispatcher, (worker,) = pool("a", max_load=64)
    await dispatcher.take(4)
    await cancel(await queued(dispatcher, 2, exclusive=True))
    assert await dispatcher.take(1) is worker


@run
async def test_usage_counts_busy_seconds_and_work_that_waits() -> None:
    dispatcher, workers = pool("a", "b", max_load=4)
    begin = time.monotonic()
    await dispatcher.take(4)
    await dispatcher.take(4)
    waiting = await queued(dispatcher, 3)
    await asyncio.sleep(0.05)
    usage = dispatcher.usage()
    assert (usage.num_replicas, usage.num_running, usage.num_waiting) == (2, 8, 3)
    assert 0.1 <= usage.busy_seconds <= 2 * (time.monotonic() - begin)
    for worker in workers:
        dispatcher.release(worker, 4)
    dispatcher.release(await waiting, 3)
    ended = dispatcher.usage().busy_seconds
    await asyncio.sleep(0.02)
    usage = dispatcher.usage()
    assert (usage.busy_seconds, usage.num_running, usage.num_waiting) == (ended, 0, 0)


@run
async def test_a_removed_worker_stops_being_busy_before_its_work_is_released() -> None:
    dispatcher, (worker,) = pool("a", max_load=2)
    await dispatcher.take(2)
    await asyncio.sleep(0.01)
    dispatcher.remove(worker)
    ended = dispatcher.usage()
    await asyncio.sleep(0.01)
    dispatcher.release(worker)
    dispatcher.add(worker)  # a new process, ready before the last work of the old one is released
    assert await dispatcher.take() is worker
    dispatcher.release(worker)
    dispatcher.release(worker)
    assert worker.load == 0
    assert (ended.num_replicas, ended.num_running) == (0, 0)
    assert ended.busy_seconds <= dispatcher.usage().busy_seconds < ended.busy_seconds + 0.01


@run
async def test_waiting_for_a_ready_worker_ends_when_one_is_added_or_the_dispatcher_fails() -> None:
    dispatcher, (worker,) = pool("a", max_load=4)
    await dispatcher.until_ready()
    dispatcher.remove(worker)
    waiting = asyncio.create_task(dispatcher.until_ready())
    await asyncio.sleep(0)
    assert not waiting.done()
    dispatcher.add(worker)
    await waiting
    dispatcher.remove(worker)
    dispatcher.fail(ModelError("not verified"))
    with pytest.raises(ModelError, match="not verified"):
        await dispatcher.until_ready()


@run
async def test_the_oldest_wait_excludes_exclusive_work() -> None:
    dispatcher, (worker,) = pool("a", max_load=4)
    await dispatcher.take(4)
    assert dispatcher.oldest_wait_seconds() == 0.0
    first = await queued(dispatcher, 4)
    await asyncio.sleep(0.05)
    second = await queued(dispatcher, 4)
    await asyncio.sleep(0.01)
    assert 0.05 <= dispatcher.oldest_wait_seconds() < 5
    await cancel(first)
    assert 0.01 <= dispatcher.oldest_wait_seconds() < 0.05
    dispatcher.release(worker, 4)
    await second
    exclusive = await queued(dispatcher, 1, exclusive=True)
    await asyncio.sleep(0.01)
    assert dispatcher.oldest_wait_seconds() == 0.0
    await cancel(exclusive)


@run
async def test_a_draining_worker_becomes_idle_when_its_work_has_finished() -> None:
    dispatcher, (worker, other) = pool("a", "b", max_load=4)
    assert await dispatcher.take(3) is worker
    dispatcher.drain(worker)
    assert await dispatcher.take(4) is other
    dispatcher.release(worker, 2)
    assert not worker.idle.is_set()
    dispatcher.release(worker)
    assert worker.idle.is_set()
    dispatcher.remove(worker)
    usage = dispatcher.usage()
    assert (usage.num_replicas, usage.num_running) == (1, 4)
