"""States of replicas: started, verified, evicted, drained."""

import asyncio
import logging

import pytest

from cluster.actors.lifecycle import BACK_OFF_SECONDS, ReplicaState
from cluster.errors import ResourcesError, SamplerError
from tests.cluster.actors.controlled_pool import NO_START, FakeLifecycle, let_tasks_run


def test_a_replica_gets_work_once_it_has_started_and_was_verified() -> None:
    async def scenario() -> None:
        lifecycle = FakeLifecycle(waits=True)
        lifecycle.add(1)
        (replica,) = lifecycle.replicas
        assert (replica.state, lifecycle.num_present, lifecycle.down()) == (ReplicaState.DOWN, 0, [replica])
        lifecycle.start(replica)
        assert (replica.state, lifecycle.num_present, lifecycle.down()) == (ReplicaState.STARTING, 1, [])
        await let_tasks_run()
        assert lifecycle.dispatcher.num_ready == 0
        replica.may_start.set()
        assert await lifecycle.dispatcher.take() is replica
        assert replica.state is ReplicaState.READY
        assert lifecycle.verified == ["part 0 verifying"]
        assert lifecycle.events == ["part 0 ready"]
        assert lifecycle.changed.is_set()

    asyncio.run(scenario())


def test_the_first_start_raises_the_error_of_a_replica_and_kill_all_leaves_none() -> None:
    async def scenario() -> None:
        lifecycle = FakeLifecycle(waits=True)
        lifecycle.add(2)
        lifecycle.replicas[1].start_error = NO_START
        lifecycle.replicas[1].may_start.set()
        with pytest.raises(ResourcesError, match="no OCaml here"):
            await lifecycle.start_all()
        lifecycle.kill_all()
        await let_tasks_run()
        assert [(replica.actor, replica.state) for replica in lifecycle.replicas] == [(None, ReplicaState.DOWN)] * 2

    asyncio.run(scenario())


def test_failed_starts_back_off_with_one_log_line_per_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        lifecycle = FakeLifecycle()
        lifecycle.add(3)
        lifecycle.replicas[0].start_error = lifecycle.replicas[1].start_error = NO_START
        lifecycle.replicas[2].start_error = ResourcesError("another cause")
        waits = []
        for _ in range(8):
            for replica in lifecycle.replicas:
                lifecycle.start(replica)
            began = asyncio.get_running_loop().time()
            await let_tasks_run()
            waits.append(round(lifecycle.replicas[0].start_at - began))
        assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
        first = lifecycle.replicas[0]
        assert (first.state, first.num_failed_starts, first.last_error) == (ReplicaState.DOWN, 8, "no OCaml here")
        first.start_error = None
        lifecycle.start(first)
        await let_tasks_run()
        assert (first.state, first.num_failed_starts) == (ReplicaState.READY, 0)

    assert BACK_OFF_SECONDS[0] == 0.0  # after a single crash
    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert [record.message.partition(":")[0] for record in caplog.records] == ["part 0", "part 2"]


def test_an_actor_is_evicted_once_and_its_time_is_counted_once() -> None:
    async def scenario() -> None:
        lifecycle = FakeLifecycle()
        lifecycle.add(1)
        await lifecycle.start_all()
        (replica,) = lifecycle.replicas
        actor = replica.actor
        await asyncio.sleep(0.02)
        lifecycle.changed.clear()
        assert lifecycle.evict(replica, actor, SamplerError("it died"))
        ended = lifecycle.usage()
        assert ended.num_replicas == 0 and (ended.capacity_seconds or 0.0) >= 0.02
        assert (replica.state, replica.last_error) == (ReplicaState.DOWN, "it died")
        assert lifecycle.changed.is_set()
        assert not lifecycle.evict(replica, actor, SamplerError("noticed again"))
        lifecycle.start(replica)
        await let_tasks_run()
        assert not lifecycle.evict(replica, actor, SamplerError("noticed late, by a job of the first actor"))
        assert replica.state is ReplicaState.READY
        assert lifecycle.events == ["part 0 evicted: it died", "part 0 ready"]
        assert lifecycle.usage().num_lost == 1

    asyncio.run(scenario())


def test_a_drained_replica_finishes_its_work_and_its_name_is_free_only_then() -> None:
    async def scenario() -> None:
        lifecycle = FakeLifecycle()
        lifecycle.add(2)
        await lifecycle.start_all()
        first, second = lifecycle.replicas
        assert await lifecycle.dispatcher.take() is first
        lifecycle.drain(first)
        await let_tasks_run()
        assert (first.state, lifecycle.replicas, lifecycle.draining) == (ReplicaState.DRAINING, [second], [first])
        assert lifecycle.num_present == 2
        lifecycle.add(2)
        assert [replica.name for replica in lifecycle.replicas] == ["part 1", "part 2"]
        assert await lifecycle.dispatcher.take() is second
        lifecycle.dispatcher.release(first)
        await let_tasks_run()
        assert (first.state, first.num_stopped, lifecycle.draining) == (ReplicaState.DOWN, 1, [])
        assert lifecycle.events == ["part 0 drained"]
        lifecycle.add(3)
        assert lifecycle.replicas[-1].name == "part 0"

    asyncio.run(scenario())


def test_a_draining_replica_that_dies_is_not_replaced() -> None:
    async def scenario() -> None:
        lifecycle = FakeLifecycle()
        lifecycle.add(1)
        await lifecycle.start_all()
        replica = await lifecycle.dispatcher.take()
        lifecycle.drain(replica)
        await let_tasks_run()
        assert not lifecycle.evict(replica, replica.actor, SamplerError("it died"))
        assert lifecycle.num_present == 0
        lifecycle.dispatcher.release(replica)
        await let_tasks_run()
        assert (lifecycle.draining, lifecycle.replicas, lifecycle.events) == ([], [], ["part 0 drained"])

    asyncio.run(scenario())


def test_a_replica_that_is_still_starting_is_removed_at_once() -> None:
    async def scenario() -> None:
        lifecycle = FakeLifecycle(waits=True)
        lifecycle.add(1)
        (replica,) = lifecycle.replicas
        lifecycle.start(replica)
        await let_tasks_run()
        lifecycle.drain(replica)
        replica.may_start.set()
        await let_tasks_run()
        assert (replica.actor, replica.state, lifecycle.num_present) == (None, ReplicaState.DOWN, 0)
        assert (lifecycle.dispatcher.num_ready, lifecycle.events) == (0, [])

    asyncio.run(scenario())


def test_an_error_of_the_pools_own_code_fails_all_work() -> None:
    async def scenario() -> None:
        lifecycle = FakeLifecycle()
        lifecycle.add(1)

        async def verify(replica: object) -> None:
            raise KeyError("a bug")

        lifecycle.verify = verify  # type: ignore[method-assign]
        lifecycle.start(lifecycle.replicas[0])
        with pytest.raises(SamplerError, match=r"broken: KeyError\('a bug'\)"):
            await lifecycle.dispatcher.take()

    asyncio.run(scenario())
