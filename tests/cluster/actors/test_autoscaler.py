"""The number of replicas follows the load, scale requests and the resources of the cluster."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from ray.exceptions import RayError

from cluster.actors import autoscaler as module
from cluster.actors.autoscaler import Autoscaler
from cluster.actors.lifecycle import ReplicaState
from cluster.errors import ConfigError, SamplerError
from cluster.types import Bounds
from rollout.pool import SCALING
from tests.cluster.actors.controlled_pool import FakeLifecycle, FakeReplica, FakeReservation

QUICK_SCALING = replace(SCALING, scale_up_wait_seconds=0.1, settle_seconds=0.2, window_seconds=0.5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.0)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.005)


class Pool:
    """An autoscaler of fake replicas, with its log."""

    def __init__(
        self,
        number: int,
        minimum: int | None = None,
        maximum: int | None = None,
        *,
        reservation: FakeReservation | None = None,
    ) -> None:
        self.lines: list[str] = []
        self.lifecycle = FakeLifecycle()
        self.autoscaler: Autoscaler[FakeReplica] = Autoscaler(
            self.lifecycle,
            num_wanted=number,
            bounds=Bounds(minimum=minimum or number, maximum=maximum or number),
            scaling=QUICK_SCALING,
            reservation=reservation,
            log=self.lines.append,
        )

    @property
    def num_ready(self) -> int:
        return self.lifecycle.dispatcher.num_ready

    async def start(self) -> None:
        await self.autoscaler.start(await self.autoscaler.num_placeable())

    async def close(self) -> None:
        await self.autoscaler.close()
        await self.lifecycle.close()


def test_the_number_of_replicas_follows_the_load_between_the_bounds() -> None:
    async def scenario() -> None:
        pool = Pool(1, maximum=2)
        await pool.start()
        dispatcher = pool.lifecycle.dispatcher
        held = [await dispatcher.take(2)]
        waiting = asyncio.create_task(dispatcher.take(2))
        await until(lambda: pool.num_ready == 2)
        held.append(await waiting)
        for replica in held:
            dispatcher.release(replica, 2)
        await until(lambda: pool.num_ready == 1)
        with pytest.raises(ConfigError, match="min_parts=3 and max_parts=2 contradict"):
            await pool.autoscaler.scale(None, 3, None)
        await pool.close()
        assert re.fullmatch(r"scaling 1 -> 2 parts: a group has waited [0-9.]+ s", pool.lines[0])
        assert re.fullmatch(r"scaling 2 -> 1 parts: busy \d+% of the last 0.5 s", pool.lines[1])
        assert len(pool.lines) == 2

    asyncio.run(scenario())


def test_a_pool_starts_the_replicas_that_fit_and_the_others_when_machines_join() -> None:
    async def scenario() -> None:
        resources = FakeReservation(2)
        pool = Pool(3, minimum=1, reservation=resources)
        await pool.start()
        assert pool.num_ready == 2
        assert pool.lines == ["parts: free resources for 2 of 3; the others start when more are free"]
        await until(lambda: resources.requested == (3, 1, 1))
        resources.size = 3
        await until(lambda: pool.num_ready == 3)
        await until(lambda: resources.requested == (3, 1, 0))
        line = await pool.autoscaler.scale(5, None, None)
        assert line == (
            "scaling 3 -> 5 parts; the cluster has resources for 3 now, the others start when machines join"
        )
        await until(lambda: resources.requested == (5, 5, 2))
        assert (await pool.autoscaler.scale(2, 1, None)) == "scaling 5 -> 2 parts, from now on between 1 and 5"
        await until(lambda: resources.requested == (2, 1, 0) and pool.num_ready == 2)
        await pool.close()
        assert resources.requested == (0, 0, 0)
        assert all(replica.actor is None for replica in pool.lifecycle.replicas)

    asyncio.run(scenario())


def test_replicas_that_are_not_ready_are_drained_first_and_then_the_least_loaded_newest() -> None:
    async def scenario() -> None:
        pool = Pool(4)
        await pool.start()
        lifecycle = pool.lifecycle
        busy = await lifecycle.dispatcher.take()
        assert busy.name == "part 0"
        lifecycle.waits = True
        await pool.autoscaler.scale(5, None, None)
        await until(lambda: any(replica.state is ReplicaState.STARTING for replica in lifecycle.replicas))
        for number, names in ((4, "0123"), (2, "01"), (1, "0")):
            await pool.autoscaler.scale(number, None, None)
            wanted = [f"part {name}" for name in names]
            await until(lambda wanted=wanted: [replica.name for replica in lifecycle.replicas] == wanted)  # type: ignore[misc]
        assert lifecycle.events == ["part 3 drained", "part 2 drained", "part 1 drained"]
        await pool.close()

    asyncio.run(scenario())


def test_an_evicted_replica_is_started_again_after_its_back_off() -> None:
    async def scenario() -> None:
        pool = Pool(1)
        await pool.start()
        (replica,) = pool.lifecycle.replicas
        replica.num_crashes = 2  # the next start waits for a second
        pool.lifecycle.evict(replica, replica.actor, SamplerError("it died"))
        pool.lifecycle.back_off(replica)
        num_checks = pool.lifecycle.num_checks
        await asyncio.sleep(0.1)
        assert replica.state is ReplicaState.DOWN
        assert pool.lifecycle.num_checks > num_checks
        replica.start_at = 0.0
        await until(lambda: pool.num_ready == 1)
        await pool.close()

    asyncio.run(scenario())


def test_an_unreadable_cluster_state_is_logged_and_read_again_later() -> None:
    class Unreadable(FakeReservation):
        def num_additional(self, num_present: int) -> int:
            if self.size < 0:
                raise RayError("the head does not answer")
            return super().num_additional(num_present)

    async def scenario() -> None:
        resources = Unreadable(8)
        pool = Pool(1, reservation=resources)
        await pool.start()
        resources.size = -1
        assert await pool.autoscaler.scale(2, None, None) == "scaling 1 -> 2 parts"
        await until(lambda: len(pool.lines) == 2)
        assert pool.lines[1] == "parts: cannot scale now, next try in 0.05 s: the head does not answer"
        resources.size = 8
        await until(lambda: pool.num_ready == 2)
        await pool.close()

    asyncio.run(scenario())
