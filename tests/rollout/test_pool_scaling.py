"""The pool while its number of samplers changes: real Ray actors around a scripted sampler, without an engine."""

import asyncio
import re
from collections import Counter
from dataclasses import replace

import pytest

import rollout.autoscaler
import rollout.lifecycle
import rollout.replica
from cluster.errors import ConfigError, SamplerError
from cluster.types import PolicyVersion
from rollout.pool import SCALING, RaySamplerPool
from rollout.settings import RolloutSettings

from .test_faults import ScriptedActor

pytestmark = pytest.mark.slow

SETTINGS = RolloutSettings(
    cpus_per_sampler=0.5, request_deadline_seconds=60, start_deadline_seconds=60, max_concurrent_requests=8
)
# Of the same shape as the real one, so that a test need not wait for minutes.
QUICK_SCALING = replace(SCALING, wait_seconds=0.3, settle_seconds=1.0, window_seconds=4.0)


@pytest.fixture(autouse=True)
def _scripted(monkeypatch):
    monkeypatch.setattr(rollout.replica, "SamplerActor", ScriptedActor)
    monkeypatch.setattr(rollout.lifecycle, "BACK_OFF_SECONDS", (0.0, 0.1))
    monkeypatch.setattr(rollout.autoscaler, "TICK_SECONDS", 0.1)


async def collect(pool, request) -> list:
    return [completion async for completion in pool.sample_group(request)]


async def until(condition) -> None:
    """Wait for something that has to come; the test's own deadline ends it."""
    while not condition():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.02)


def process_of(completion) -> str:
    """The process that sampled it, as the scripted sampler says."""
    return completion.text.split()[0]


def versions_held(completion) -> str:
    """The policies that its sampler had been given, in their order."""
    return completion.text.partition(" ")[2]


def test_a_pool_grows_and_shrinks_while_groups_are_sampled_and_each_completion_comes_once(local_ray, run, request_for):
    told: list[str] = []

    async def scenario():
        pool = RaySamplerPool(SETTINGS, model="fine", lora_rank=8, max_staleness=1, tell=told.append)
        await pool.start()
        await pool.publish(PolicyVersion(number=1, adapter={}))
        first = [asyncio.create_task(collect(pool, request_for(f"slow: {n} ", size=4))) for n in range(8)]
        assert (await pool.scale(2)).startswith("scaling 1 -> 2 samplers")
        await until(lambda: pool.usage().num_replicas == 2)
        second = [asyncio.create_task(collect(pool, request_for(f"slow: {n} ", size=4))) for n in range(8, 16)]
        await asyncio.sleep(0.5)
        assert (await pool.scale(1)).startswith("scaling 2 -> 1 samplers")
        await until(lambda: pool.usage().num_replicas == 1)
        # The one that goes has groups, and the policy that comes meanwhile is not for it.
        (swap,) = await pool.publish(PolicyVersion(number=2, adapter={}))
        third = [asyncio.create_task(collect(pool, request_for(f"slow: {n} ", size=4))) for n in range(16, 20)]
        groups = await asyncio.gather(*first, *second, *third)
        await until(lambda: not pool._service.leaving)
        usage, last = pool.usage(), await collect(pool, request_for("fine:", size=1))
        await pool.close()
        return swap, groups, usage, last

    swap, groups, usage, last = run(scenario())
    assert Counter((c.group_id, c.index) for group in groups for c in group) == Counter(
        {(f"slow: {n} ", index): 1 for n in range(20) for index in range(4)}
    )
    assert len({c.text.split()[1] for group in groups for c in group}) == 2  # processes
    assert all(len({c.policy_version for c in group}) == 1 for group in groups)
    assert {c.policy_version for group in groups[:8] for c in group} == {1}
    assert {c.policy_version for group in groups[16:] for c in group} == {2}
    assert last[0].policy_version == 2
    assert (usage.num_replicas, usage.num_running, usage.num_waiting) == (1, 0, 0)
    assert 0 < usage.busy_seconds <= usage.capacity_seconds
    assert swap.sampler in ("sampler 0", "sampler 1")
    assert [line.partition(" after ")[0] for line in told] == [
        "scaling 1 -> 2 samplers",
        "sampler 1 is given work",
        "scaling 2 -> 1 samplers",
        f"sampler {1 - int(swap.sampler[-1])} has ended what it had, and is gone",
    ]


def test_a_new_sampler_is_given_work_once_it_has_proved_every_live_policy(local_ray, run, request_for):
    async def scenario():
        told: list[str] = []
        pool = RaySamplerPool(SETTINGS, model="fine", lora_rank=8, max_staleness=2, tell=told.append)
        await pool.start()
        await pool.publish(PolicyVersion(number=1, adapter={}))
        running = pool.sample_group(request_for("slow: ", size=40))
        await anext(running)  # holds policy 1
        await pool.publish(PolicyVersion(number=2, adapter={}))
        await pool.scale(2)
        await until(lambda: pool.usage().num_replicas == 2)
        # The other one is fuller: what comes now goes to the new one.
        group = await collect(pool, request_for("fine:", size=1))
        await running.aclose()
        await pool.close()
        return told, group

    told, (completion,) = run(scenario())
    assert versions_held(completion) == "[1, 2]"
    assert completion.policy_version == 2
    assert told[1].endswith("it has proved policy 2")


def test_a_policy_that_comes_while_a_sampler_starts_is_proved_by_it_too(local_ray, run, request_for):
    async def scenario():
        pool = RaySamplerPool(SETTINGS, model="fine", lora_rank=8)
        await pool.start()
        await pool.scale(3)
        swaps = []
        for number in range(1, 40):
            swaps.append(await pool.publish(PolicyVersion(number=number, adapter={})))
            if pool.usage().num_replicas == 3:
                break
            await asyncio.sleep(0.2)
        await until(lambda: pool.usage().num_replicas == 3)
        groups = await asyncio.gather(*(collect(pool, request_for("slow: ", size=6)) for _ in range(3)))
        await pool.close()
        return number, swaps, groups

    number, swaps, groups = run(scenario())
    assert [swap.sampler for swap in swaps[0]] == ["sampler 0"]
    assert len({c.text.split()[0] for group in groups for c in group}) == 3
    assert {c.policy_version for group in groups for c in group} == {number}
    assert all(versions_held(c).endswith(f"{number}]") for group in groups for c in group)


def test_a_sampler_that_dies_while_it_ends_what_it_had_loses_nothing_and_is_not_replaced(local_ray, run, request_for):
    import ray

    async def scenario():
        pool = RaySamplerPool(SETTINGS.model_copy(update={"num_samplers": 2}), model="fine", lora_rank=8)
        await pool.start()
        await pool.publish(PolicyVersion(number=1, adapter={}))
        tasks = [asyncio.create_task(collect(pool, request_for(f"slow: {n} ", size=6))) for n in range(2)]
        await asyncio.sleep(0.5)
        await pool.scale(1)
        await until(lambda: pool._service.leaving)
        ray.kill(pool._service.leaving[0].actor)
        groups = await asyncio.gather(*tasks)
        await until(lambda: not pool._service.leaving)
        usage = pool.usage()
        await pool.close()
        return groups, usage

    groups, usage = run(scenario())
    assert [sorted(c.index for c in group) for group in groups] == [list(range(6))] * 2
    assert {c.policy_version for group in groups for c in group} == {1}
    assert usage.num_replicas == 1


def test_the_number_follows_the_work_between_the_bounds(local_ray, run, request_for):
    told: list[str] = []

    async def scenario():
        settings = SETTINGS.model_copy(update={"max_samplers": 2, "max_concurrent_requests": 4})
        pool = RaySamplerPool(settings, model="fine", lora_rank=8, tell=told.append, scaling=QUICK_SCALING)
        await pool.start()
        tasks = [asyncio.create_task(collect(pool, request_for(f"slow: {n} ", size=5))) for n in range(40)]
        await until(lambda: pool.usage().num_replicas == 2)
        groups = await asyncio.gather(*tasks)
        await until(lambda: pool.usage().num_replicas == 1)
        with pytest.raises(ConfigError, match="min_samplers=3 and max_samplers=2 contradict"):
            await pool.scale(min_samplers=3)
        await pool.close()
        return groups

    groups = run(scenario())
    assert [sorted(c.index for c in group) for group in groups] == [list(range(5))] * 40
    assert re.fullmatch(r"scaling 1 -> 2 samplers: a group has waited [0-9.]+ s", told[0])
    assert any(line.startswith("scaling 2 -> 1 samplers: busy ") for line in told)


class Room:
    """A reservation with room for so many samplers in all; remembers what was wanted last."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.wanted = (0, 0)

    def num_additional(self, num_present: int) -> int:
        return max(0, self.size - num_present)

    def request(self, num_wanted: int, *, minimum: int, num_unplaced: int) -> None:
        self.wanted = (num_wanted, num_unplaced)


def test_a_run_starts_with_those_that_have_room_and_the_others_follow(local_ray, run, request_for, monkeypatch):
    monkeypatch.setattr(rollout.autoscaler, "SETTLE_SECONDS", 1.0)

    async def scenario():
        room = Room(2)
        settings = SETTINGS.model_copy(update={"num_samplers": 3, "min_samplers": 1})
        pool = RaySamplerPool(settings, model="fine", lora_rank=8, reservation=room)
        await pool.start()
        assert pool.usage().num_replicas == 2
        await until(lambda: room.wanted == (3, 1))
        await pool.publish(PolicyVersion(number=1, adapter={}))
        room.size = 3  # a machine joins
        await until(lambda: pool.usage().num_replicas == 3)
        await until(lambda: room.wanted == (3, 0))
        line = await pool.scale(5)
        assert line == "scaling 3 -> 5 samplers; the cluster has room for 3 now, the others start when machines join"
        await until(lambda: room.wanted == (5, 2))
        await pool.close()
        return room

    assert run(scenario()).wanted == (0, 0)


def test_samplers_that_die_where_there_is_no_room_any_more_leave_the_work_to_the_others_and_the_last_ends_the_run(
    local_ray, run, request_for, monkeypatch
):
    import ray

    async def scenario():
        room = Room(2)
        settings = SETTINGS.model_copy(update={"num_samplers": 2})
        pool = RaySamplerPool(settings, model="fine", lora_rank=8, reservation=room)
        await pool.start()
        impatient = settings.model_copy(update={"start_deadline_seconds": 3.0})
        monkeypatch.setattr(pool._service, "_plan", replace(pool._service._plan, settings=impatient))
        groups = [asyncio.create_task(collect(pool, request_for(f"slow: {n} ", size=6))) for n in range(2)]
        await asyncio.sleep(0.5)
        room.size = 0  # a machine leaves, and takes one along
        ray.kill(pool._service.stations[0].actor)
        assert [sorted(c.index for c in group) for group in await asyncio.gather(*groups)] == [list(range(6))] * 2
        await until(lambda: room.wanted == (2, 1))
        last = asyncio.create_task(collect(pool, request_for("slow: ", size=6)))
        await asyncio.sleep(0.3)
        ray.kill(pool._service.stations[1].actor)
        with pytest.raises(SamplerError, match=r"no sampler is left: sampler \d was started 0 times in \d+ s"):
            await last
        await pool.close()

    run(scenario())
