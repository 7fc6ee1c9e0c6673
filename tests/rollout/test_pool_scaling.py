"""The pool while its number of samplers changes: real Ray actors around a scripted sampler, without an engine."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

import cluster.actors.autoscaler
import cluster.actors.lifecycle
import rollout.replica
from cluster.errors import SamplerError
from cluster.types import Completion, PolicyVersion, Usage, WeightSync
from rollout.pool import RaySamplerPool
from rollout.settings import RolloutSettings
from tests.cluster.actors.controlled_pool import FakeReservation
from tests.rollout.conftest import MakeRequest, RunInLoop

from .test_faults import ScriptedActor, collect

pytestmark = pytest.mark.long

SETTINGS = RolloutSettings(
    cpus_per_sampler=0.5,
    request_deadline_seconds=60,
    start_deadline_seconds=60,
    max_concurrent_requests=8,
    weight_sync_mode="versions",
)


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout.replica, "Sampler", ScriptedActor)
    monkeypatch.setattr(cluster.actors.lifecycle, "BACK_OFF_SECONDS", (0.0, 0.1))
    monkeypatch.setattr(cluster.actors.autoscaler, "TICK_SECONDS", 0.1)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; the timeout of the test ends it."""
    while not condition():  # noqa: ASYNC110 - nothing signals it
        await asyncio.sleep(0.02)


def process_of(completion: Completion) -> str:
    """The process of the scripted sampler."""
    return completion.text.split()[0]


def loaded_versions(completion: Completion) -> str:
    """The policies that the sampler had loaded, in order."""
    return completion.text.partition(" ")[2]


def test_a_pool_grows_and_shrinks_while_groups_are_sampled_and_each_completion_arrives_once(
    local_ray: None, run: RunInLoop, request_for: MakeRequest
) -> None:
    lines: list[str] = []

    async def scenario() -> tuple[WeightSync, list[list[Completion]], Usage, list[Completion]]:
        pool = RaySamplerPool(SETTINGS, model="fine", lora_rank=8, max_staleness=1, log=lines.append)
        await pool.start()
        await pool.publish(PolicyVersion(number=1, adapter={}))
        first = [asyncio.create_task(collect(pool, request_for(f"slow: {n} ", size=4))) for n in range(8)]
        assert (await pool.scale(2)).startswith("scaling 1 -> 2 samplers")
        await until(lambda: pool.usage().num_replicas == 2)
        second = [asyncio.create_task(collect(pool, request_for(f"slow: {n} ", size=4))) for n in range(8, 16)]
        await asyncio.sleep(0.5)
        assert (await pool.scale(1)).startswith("scaling 2 -> 1 samplers")
        await until(lambda: pool.usage().num_replicas == 1)
        # The draining sampler has groups, and does not take the policy that is published meanwhile.
        (swap,) = await pool.publish(PolicyVersion(number=2, adapter={}))
        third = [asyncio.create_task(collect(pool, request_for(f"slow: {n} ", size=4))) for n in range(16, 20)]
        groups = await asyncio.gather(*first, *second, *third)
        await until(lambda: not pool._lifecycle.draining)
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
    assert usage.capacity_seconds is not None and 0 < usage.busy_seconds <= usage.capacity_seconds
    assert swap.sampler in ("sampler 0", "sampler 1")
    assert [line.partition(" after ")[0] for line in lines] == [
        "scaling 1 -> 2 samplers",
        "sampler 1: ready",
        "scaling 2 -> 1 samplers",
        f"sampler {1 - int(swap.sampler[-1])}: drained and stopped",
    ]


def test_a_policy_that_is_published_while_a_sampler_starts_is_verified_on_it_too(
    local_ray: None, run: RunInLoop, request_for: MakeRequest
) -> None:
    async def scenario() -> tuple[int, list[tuple[WeightSync, ...]], list[list[Completion]]]:
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
    assert all(loaded_versions(c).endswith(f"{number}]") for group in groups for c in group)


def test_a_draining_sampler_that_dies_loses_nothing_and_is_not_replaced(
    local_ray: None, run: RunInLoop, request_for: MakeRequest
) -> None:
    import ray

    async def scenario() -> tuple[list[list[Completion]], Usage]:
        pool = RaySamplerPool(SETTINGS.model_copy(update={"num_samplers": 2}), model="fine", lora_rank=8)
        await pool.start()
        await pool.publish(PolicyVersion(number=1, adapter={}))
        tasks = [asyncio.create_task(collect(pool, request_for(f"slow: {n} ", size=6))) for n in range(2)]
        await asyncio.sleep(0.5)
        await pool.scale(1)
        await until(lambda: pool._lifecycle.draining)
        ray.kill(pool._lifecycle.draining[0].actor)
        groups = await asyncio.gather(*tasks)
        await until(lambda: not pool._lifecycle.draining)
        usage = pool.usage()
        await pool.close()
        return groups, usage

    groups, usage = run(scenario())
    assert [sorted(c.index for c in group) for group in groups] == [list(range(6))] * 2
    assert {c.policy_version for group in groups for c in group} == {1}
    assert usage.num_replicas == 1


def test_the_work_of_samplers_that_cannot_restart_goes_to_the_others_and_the_last_death_fails_the_pool(
    local_ray: None, run: RunInLoop, request_for: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    async def scenario() -> None:
        resources = FakeReservation(2)
        settings = SETTINGS.model_copy(update={"num_samplers": 2})
        pool = RaySamplerPool(settings, model="fine", lora_rank=8, reservation=resources)
        await pool.start()
        impatient = settings.model_copy(update={"start_deadline_seconds": 3.0})
        monkeypatch.setattr(pool._lifecycle, "_settings", impatient)
        groups = [asyncio.create_task(collect(pool, request_for(f"slow: {n} ", size=6))) for n in range(2)]
        await asyncio.sleep(0.5)
        resources.size = 0  # a machine leaves the cluster with its sampler
        ray.kill(pool._lifecycle.replicas[0].actor)
        assert [sorted(c.index for c in group) for group in await asyncio.gather(*groups)] == [list(range(6))] * 2
        await until(lambda: resources.requested == (2, 2, 1))
        last = asyncio.create_task(collect(pool, request_for("slow: ", size=6)))
        await asyncio.sleep(0.3)
        ray.kill(pool._lifecycle.replicas[1].actor)
        with pytest.raises(
            SamplerError, match=r"no sampler is left: sampler \d has been down for \d+ s with 0 failed starts"
        ):
            await last
        await pool.close()

    run(scenario())
