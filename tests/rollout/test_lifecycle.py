"""How samplers come, die and prove policies, with actors that do nothing; the real ones are in test_rollout_pool*.py."""

import asyncio
import time

import pytest

from cluster.errors import SamplerError
from cluster.types import PolicyVersion, WeightSync
from rollout import replica as stations
from rollout.dispatcher import Router
from rollout.lifecycle import Service
from rollout.publisher import Publisher
from rollout.replica import SamplerPlan, Station
from rollout.settings import RolloutSettings
from rollout.weight_sync import Verification

PROVED = Verification(policy_version=1, gap=None, tolerance=1.0, missing=(), surplus=(), differing=())
DEADLINE_SECONDS = 5.0


class Samplers:
    """A service whose samplers start at once, and take policies once they are not ``held``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: dict[str, asyncio.Event] = {}  # by name
        self.loaded: list[tuple[str, object]] = []

        async def start(station: Station, plan: SamplerPlan) -> None:
            station.actor = object()

        async def load(station: Station, policy: object, live: frozenset[int], seconds: float):
            if station.name in self.held:
                await self.held[station.name].wait()
            self.loaded.append((station.name, policy.number))
            return WeightSync(sampler=station.name, seconds=0.0, gap=None), PROVED

        monkeypatch.setattr(stations.ray, "kill", lambda actor: None)
        monkeypatch.setattr(stations.ray, "put", lambda policy: policy)
        monkeypatch.setattr(Station, "start", start)
        monkeypatch.setattr(Station, "load", load)
        settings = RolloutSettings(start_deadline_seconds=DEADLINE_SECONDS)
        plan = SamplerPlan(settings=settings, model="m", lora_rank=8, max_staleness=1, pool_id="x")
        self.router: Router[Station] = Router(8)
        self.publisher = Publisher(settings)
        self.service = Service(plan, self.router, self.publisher, lambda line: None)

    async def start(self, number: int) -> None:
        self.service.add_stations(number)
        await self.service.start_all()

    async def publish(self, number: int) -> None:
        policy = PolicyVersion(number=number, adapter={})
        await asyncio.wait_for(self.publisher.publish(policy, self.service.serving, self.service.dismiss), 5)
        self.publisher.policies.promote(number)


def test_the_death_of_the_only_sampler_ends_nothing_where_only_another_place_has_waited_long_for_room(monkeypatch):
    async def scenario() -> None:
        samplers = Samplers(monkeypatch)
        service = samplers.service
        service.add_stations(2)
        working, waiting = service.stations
        await working.start(None)
        samplers.router.open(working)
        waiting.down_since = time.monotonic() - 2 * DEADLINE_SECONDS
        service.dismiss(working, working.actor, SamplerError("its process is gone"))
        service.give_up_alone()
        assert not samplers.router.has_failed
        working.down_since -= 2 * DEADLINE_SECONDS  # now nobody has come back for as long as a start may take
        service.give_up_alone()
        assert samplers.router.has_failed
        with pytest.raises(SamplerError, match=r"sampler 0 was started 0 times in 1\d s.*its process is gone"):
            await samplers.router.take(1)

    asyncio.run(scenario())


def test_a_policy_is_published_while_those_that_join_still_prove_the_ones_before_it(monkeypatch):
    async def scenario() -> None:
        samplers = Samplers(monkeypatch)
        service = samplers.service
        await samplers.start(1)
        await samplers.publish(1)
        service.add_stations(3)
        samplers.held = {station.name: asyncio.Event() for station in service.stations[1:]}
        for station in service.stations[1:]:
            service.begin(station)
        await asyncio.sleep(0.01)
        await samplers.publish(2)
        assert samplers.loaded == [("sampler 0", 1), ("sampler 0", 2)]  # the new ones have not proved a thing
        for event in samplers.held.values():
            event.set()
        await asyncio.gather(*(station.starting for station in service.stations if station.starting))
        assert samplers.router.num_open == 3
        # Each was given work only when it had proved the newest one too, each policy once.
        for name in ("sampler 1", "sampler 2"):
            assert sorted(number for one, number in samplers.loaded if one == name) == [1, 2]
        assert {swap.sampler for swap in samplers.publisher.swaps} == {"sampler 0", "sampler 1", "sampler 2"}

    asyncio.run(scenario())


def test_a_sampler_that_died_between_being_asked_and_taking_a_policy_is_passed_over(monkeypatch):
    async def scenario() -> None:
        samplers = Samplers(monkeypatch)
        service = samplers.service
        await samplers.start(2)
        dead, alive = service.stations

        def serving():
            asked = service.serving()
            service.dismiss(dead, dead.actor, SamplerError("its process is gone"))
            return asked

        await samplers.publisher.publish(PolicyVersion(number=1, adapter={}), serving, service.dismiss)
        assert [swap.sampler for swap in samplers.publisher.swaps] == [alive.name]

    asyncio.run(scenario())
