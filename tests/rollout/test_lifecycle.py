"""Start, death and verification of samplers, with actors that do nothing; real ones are in test_pool*.py."""

import asyncio
import time
from typing import Any

import pytest

from cluster.actors.dispatcher import Dispatcher
from cluster.errors import SamplerError
from cluster.types import PolicyVersion, WeightSync
from rollout.lifecycle import SamplerLifecycle
from rollout.replica import SamplerPlan, SamplerReplica
from rollout.settings import RolloutSettings
from rollout.weight_sync import Verification

VERIFIED = Verification(policy_version=1, gap=None, tolerance=1.0, missing=(), surplus=(), differing=())
DEADLINE_SECONDS = 5.0


class Samplers:
    """A lifecycle whose samplers start at once and load policies, after the event in ``held`` if there is one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: dict[str, asyncio.Event] = {}  # by sampler name
        self.loaded: list[tuple[str, int]] = []
        self.lines: list[str] = []

        async def start_actor(replica: SamplerReplica) -> None:
            replica.actor = object()

        async def stop_actor(replica: SamplerReplica) -> None:
            pass

        async def load_policy(
            replica: SamplerReplica, policy: Any, live: object, tolerance: float, seconds: float
        ) -> Any:
            if replica.name in self.held:
                await self.held[replica.name].wait()
            await asyncio.sleep(0)
            self.loaded.append((replica.name, policy.number))
            return WeightSync(sampler=replica.name, seconds=0.0, gap=None, tolerance=1.0), VERIFIED

        monkeypatch.setattr("ray.kill", lambda actor: None)
        monkeypatch.setattr("ray.put", lambda policy: policy)
        monkeypatch.setattr(SamplerReplica, "start_actor", start_actor)
        monkeypatch.setattr(SamplerReplica, "stop_actor", stop_actor)
        monkeypatch.setattr(SamplerReplica, "load_policy", load_policy)
        settings = RolloutSettings(start_deadline_seconds=DEADLINE_SECONDS, weight_sync_mode="versions")
        plan = SamplerPlan(settings=settings, model="m", lora_rank=8, max_staleness=1, pool_id="x")
        self.dispatcher: Dispatcher[SamplerReplica] = Dispatcher(8)
        self.lifecycle = SamplerLifecycle(plan, self.dispatcher, self.lines.append)

    async def start(self, number: int) -> None:
        self.lifecycle.add(number)
        await self.lifecycle.start_all()

    async def publish(self, number: int) -> None:
        await asyncio.wait_for(self.lifecycle.publish(PolicyVersion(number=number, adapter={})), 5)
        self.lifecycle.policies.promote(number)


def test_the_death_of_the_only_ready_sampler_does_not_fail_the_pool_before_its_start_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        samplers = Samplers(monkeypatch)
        lifecycle = samplers.lifecycle
        await samplers.start(1)
        lifecycle.add(2)
        working, waiting = lifecycle.replicas
        waiting.down_since = time.monotonic() - 2 * DEADLINE_SECONDS
        lifecycle.evict(working, working.actor, SamplerError("its process died"))
        lifecycle.fail_if_none_ready()
        assert not samplers.dispatcher.has_failed
        working.down_since -= 2 * DEADLINE_SECONDS  # it has not restarted within the start deadline
        lifecycle.fail_if_none_ready()
        message = r"no sampler is left: sampler 0 has been down for 1\d s with 0 failed starts.*its process died"
        with pytest.raises(SamplerError, match=message):
            await samplers.dispatcher.take(1)

    asyncio.run(scenario())


def test_policies_are_published_while_new_samplers_verify_earlier_policies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        samplers = Samplers(monkeypatch)
        lifecycle = samplers.lifecycle
        await samplers.start(1)
        await samplers.publish(1)
        lifecycle.policies.acquire()  # a group runs under policy 1
        lifecycle.add(3)
        samplers.held = {replica.name: asyncio.Event() for replica in lifecycle.replicas[1:]}
        for replica in lifecycle.replicas[1:]:
            lifecycle.start(replica)
        await asyncio.sleep(0.01)
        await samplers.publish(2)
        assert samplers.loaded == [("sampler 0", 1), ("sampler 0", 2)]  # the new samplers have verified no policy yet
        for event in samplers.held.values():
            event.set()
        await asyncio.gather(*(replica.task for replica in lifecycle.replicas if replica.task))
        assert samplers.dispatcher.num_ready == 3
        # Before it got work, each new sampler loaded each policy once, the oldest first.
        for name in ("sampler 1", "sampler 2"):
            assert [number for sampler, number in samplers.loaded if sampler == name] == [1, 2]
        assert {sync.sampler for sync in lifecycle.weight_syncs} == {"sampler 0", "sampler 1", "sampler 2"}
        assert sorted(samplers.lines) == [
            "sampler 1: ready after 0 s, verified on policy 2",
            "sampler 2: ready after 0 s, verified on policy 2",
        ]

    asyncio.run(scenario())


@pytest.mark.parametrize("num_turns", range(8))
def test_a_sampler_that_gets_ready_at_any_moment_of_a_publish_has_the_policy(
    num_turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        samplers = Samplers(monkeypatch)
        lifecycle = samplers.lifecycle
        await samplers.start(1)
        await samplers.publish(1)
        lifecycle.add(2)
        publishing = asyncio.create_task(samplers.publish(2))
        for _ in range(num_turns):
            await asyncio.sleep(0.0005 if num_turns > 4 else 0)
        lifecycle.start(lifecycle.replicas[1])
        await publishing
        while samplers.dispatcher.num_ready < 2:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)
        assert [number for name, number in samplers.loaded if name == "sampler 1"][-1] == 2
        assert samplers.loaded.count(("sampler 1", 2)) == 1

    asyncio.run(scenario())


def test_a_publish_skips_a_sampler_that_died_after_the_samplers_were_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        samplers = Samplers(monkeypatch)
        lifecycle = samplers.lifecycle
        await samplers.start(2)
        dead, alive = lifecycle.replicas

        def serving() -> list[SamplerReplica]:
            lifecycle.evict(dead, dead.actor, SamplerError("its process died"))
            return [dead, alive]

        monkeypatch.setattr(lifecycle, "serving", serving)
        await lifecycle.publish(PolicyVersion(number=1, adapter={}))
        assert [sync.sampler for sync in lifecycle.weight_syncs] == [alive.name]

    asyncio.run(scenario())


def test_a_drained_sampler_is_stopped_after_the_running_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        samplers = Samplers(monkeypatch)
        lifecycle = samplers.lifecycle
        await samplers.start(2)
        samplers.held = {"sampler 1": asyncio.Event()}
        publishing = asyncio.create_task(samplers.publish(1))
        await asyncio.sleep(0.05)
        lifecycle.drain(lifecycle.replicas[1])
        await asyncio.sleep(0.01)
        assert [replica.name for replica in lifecycle.draining] == ["sampler 1"]
        samplers.held["sampler 1"].set()
        await publishing
        await asyncio.sleep(0.01)
        assert lifecycle.draining == []
        assert samplers.lines == ["sampler 1: drained and stopped"]
        assert {sync.sampler for sync in lifecycle.weight_syncs} == {"sampler 0", "sampler 1"}

    asyncio.run(scenario())
