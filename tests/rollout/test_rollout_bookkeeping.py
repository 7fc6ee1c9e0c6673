"""The pool's pure parts: routing, live policies, the adapter shelf, room in the cluster."""

import asyncio
import multiprocessing
import os
from multiprocessing.shared_memory import SharedMemory

import pytest

from cluster.types import ResourcesError, SamplerError
from rollout.leftovers import SHARED_MEMORY, engine_files, sweep
from rollout.policies import LivePolicies
from rollout.room import num_that_fit
from rollout.routing import Router, Seat
from rollout.settings import RolloutSettings
from rollout.shelf import AdapterShelf


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
        router.fail("the first reason")
        router.fail("a later one")
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


def test_an_adapter_appears_whole_and_is_gone_after_close(tmp_path):
    shelf = AdapterShelf(tmp_path)
    folder = shelf.put(3, {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"})
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": b"weights",
    }
    shelf.remove(3)
    assert not folder.exists()
    shelf.close()
    shelf.close()
    assert list(tmp_path.iterdir()) == []


def test_two_shelves_never_share_a_path(tmp_path):
    one, other = AdapterShelf(tmp_path), AdapterShelf(tmp_path)
    assert one.put(1, {}) != other.put(1, {})


def test_an_adapter_that_cannot_be_written_leaves_nothing_half_done(tmp_path):
    shelf = AdapterShelf(tmp_path)
    with pytest.raises(ResourcesError, match="policy 1 cannot be written"):
        shelf.put(1, {"a": b"", "no/such/folder": b""})
    assert [path.name for path in shelf.path.iterdir()] == [".lock"]


def test_folders_of_killed_samplers_are_swept_and_those_in_use_are_not(tmp_path):
    alive = AdapterShelf(tmp_path)
    orphan = AdapterShelf(tmp_path)
    orphan._lock.close()  # what the kernel does when the process is killed
    sweep(tmp_path)
    assert alive.path.exists()
    assert not orphan.path.exists()


def test_the_shared_memory_of_a_killed_sampler_is_swept_too(tmp_path):
    memory = SharedMemory(create=True, size=4096)
    semaphore = multiprocessing.get_context("spawn").Lock()  # keeps a name in shared memory, as vLLM's do
    files = {SHARED_MEMORY / memory.name, SHARED_MEMORY / f"sem.{semaphore._semlock.name.lstrip('/')}"}
    assert set(map(str, files)) <= set(engine_files(os.getpid()))
    orphan = AdapterShelf(tmp_path)
    sweep(tmp_path)
    assert all(file.exists() for file in files)  # their owner lives
    orphan._lock.close()
    sweep(tmp_path)
    assert not any(file.exists() for file in files)
    for file in files:
        file.touch()  # for Python to tidy up
    memory.close()
    memory.unlink()


def test_samplers_fit_only_as_a_whole_on_one_machine():
    settings = RolloutSettings(cpus_per_sampler=3, gpus_per_sampler=0.3)
    assert num_that_fit(settings, [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]) == 1
    assert num_that_fit(settings, [{"CPU": 16.0, "GPU": 0.9}]) == 3
    assert num_that_fit(settings, [{"CPU": 16.0}]) == 0
    assert num_that_fit(RolloutSettings(), [{"CPU": 4.0}]) == 4
