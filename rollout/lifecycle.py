"""Takes samplers into service and out of it: starting, proving, dying, leaving.

Whoever starts, as one more or for a dead one, is given work once it has proved every policy that is live. One that is to go is
given no more work, ends what it has, and is ended.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from ray.actor import ActorHandle
from ray.exceptions import RayError

from cluster.errors import CaravanError, ModelError, SamplerError
from cluster.types import Usage, WeightSync
from rollout.dispatcher import Router
from rollout.publisher import Publisher
from rollout.replica import SamplerPlan, Station
from rollout.weight_sync_modes import weight_sync_mode

logger = logging.getLogger(__name__)

MAX_RERUNS = 2
"""How often a group is sampled again after its sampler died; the last time it runs alone, so that no other is blamed."""

MAX_BARREN = 2 * (MAX_RERUNS + 1)
"""Samplers that may die at one place without having handed over anything: as many as two such groups can kill."""

MAX_STARTS = 3
"""Starts that may fail one after another while no other sampler is open."""

BACK_OFF_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Wait before a start, by how many failed before it; the last one is for all further ones."""


class Service:
    """The samplers of a pool, and what becomes of each. Lives in one event loop, after ``ray.init``."""

    def __init__(
        self, plan: SamplerPlan, router: Router[Station], publisher: Publisher, tell: Callable[[str], None]
    ) -> None:
        """``tell`` takes a line of news."""
        self._plan = plan
        self._router = router
        self._publisher = publisher
        self._tell = tell
        self.stations: list[Station] = []  # as many as are wanted, with a sampler or without
        self.leaving: list[Station] = []  # that end what they have
        self.changed = asyncio.Event()  # somebody is down, or was started
        self._retiring: set[asyncio.Task[None]] = set()
        self._capacity_seconds = 0.0  # of samplers that are gone

    @property
    def num_present(self) -> int:
        """Samplers that take up room, whether they are given work or not."""
        return sum(station.actor is not None for station in (*self.stations, *self.leaving))

    def down(self) -> list[Station]:
        """Places without a sampler."""
        return [station for station in self.stations if station.actor is None and station.starting is None]

    def add_stations(self, number: int) -> None:
        """Have so many places, each with the first name that is free."""
        while len(self.stations) < number:
            taken = {station.name for station in (*self.stations, *self.leaving)}
            names = (f"sampler {index}" for index in range(len(taken) + 1))
            self.stations.append(Station(name=next(name for name in names if name not in taken)))

    async def start_all(self) -> None:
        """Start a sampler at every place, and give them work; raises ModelError, SamplerError or DeadlineExceeded."""
        await asyncio.gather(*(station.start(self._plan) for station in self.stations))
        for station in self.stations:
            self._open(station)

    def begin(self, station: Station) -> None:
        """Begin to start a sampler at a place that has none."""
        station.starting = asyncio.create_task(self._bring_up(station))
        station.starting.add_done_callback(self.check_ended)

    def let_go(self, station: Station) -> None:
        """Give up a place; a sampler there that is given work ends what it has."""
        self.stations.remove(station)
        if station.is_open:
            self._router.shut(station)
            self.leaving.append(station)
            task = asyncio.create_task(self._retire(station))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
            task.add_done_callback(self.check_ended)
        else:
            station.stop_starting()
            station.kill()
            self._router.remove(station)

    def serving(self) -> Sequence[Station]:
        """Who has to take a policy now.

        That is also who ends what it has, where policies change under running completions.
        """
        updates_running = weight_sync_mode(self._plan.settings).updates_running
        return [
            *(station for station in self.stations if station.is_open),
            *(station for station in self.leaving if updates_running and station.num_running and station.actor),
        ]

    def usage(self) -> Usage:
        """What the samplers did so far."""
        now, present = time.monotonic(), (*self.stations, *self.leaving)
        there = sum(now - station.there_since for station in present if station.there_since is not None)
        return replace(self._router.usage(), capacity_seconds=self._capacity_seconds + there)

    def dismiss(self, station: Station, actor: ActorHandle | None, error: CaravanError) -> None:
        """End an actor that died or hangs and have another one take its place, unless that was begun already or is no use."""
        if actor is None or station.actor is not actor:
            return  # somebody else noticed first
        self._router.shut(station)
        self._leave(station)
        station.kill()
        if station in self.leaving:
            return  # others sample what it had
        station.num_barren += 1
        station.num_failed = 0
        station.down_since = time.monotonic()
        station.start_again_at = station.down_since + _back_off(station.num_barren - 1)
        station.trouble = str(error)
        if station.num_barren >= MAX_BARREN and not self._router.num_open:
            self._router.fail(
                SamplerError(
                    f"{station.num_barren} engines of {station.name} died one after another without handing over "
                    f"anything, and no other sampler is left; the last one: {error}"
                )
            )
            return
        logger.warning("%s is started again: %s", station.name, error)
        self.changed.set()

    def give_up_alone(self) -> None:
        """Refuse all work where no sampler is left and none can be started."""
        if self._router.num_open:
            return
        now, deadline = time.monotonic(), self._plan.settings.start_deadline_seconds
        late = [
            station
            for station in self.stations
            if station.starting is None and (station.num_failed >= MAX_STARTS or now - station.down_since >= deadline)
        ]
        # Places that wait for room have been late for long: it takes all of them.
        if late and len(late) == len(self.stations):
            last = max(late, key=lambda station: station.down_since)
            self._router.fail(
                SamplerError(
                    f"no sampler is left: {last.name} was started {last.num_failed} times in {now - last.down_since:.0f} s, and "
                    f"the last trouble was: {last.trouble}"
                )
            )

    async def close(self) -> None:
        """Stop every engine and leave no process behind; may be called twice."""
        self._stop_tasks()
        # A sampler that cannot shut down is killed all the same.
        present = (*self.stations, *self.leaving)
        await asyncio.gather(*(station.shutdown() for station in present), return_exceptions=True)
        self.kill_all()

    def kill_all(self) -> None:
        """End every actor at once."""
        self._stop_tasks()
        for station in (*self.stations, *self.leaving):
            station.kill()

    def check_ended(self, task: "asyncio.Task[None]") -> None:
        """Without those who look after it the pool could shrink to nothing, with every group waiting for ever."""
        if not task.cancelled() and (error := task.exception()):
            self._router.fail(SamplerError(f"the sampler pool broke down: {error!r}"))

    async def _bring_up(self, station: Station) -> None:
        """Start an engine, have it prove every live policy, and give it work."""
        began = time.monotonic()
        try:
            await station.start(self._plan)
            proved: dict[int, WeightSync] = {}
            # First without the lock: a policy that comes meanwhile does not wait for this.
            failure = await self._publisher.catch_up(station, proved)
            async with self._publisher.lock:
                if failure is None:
                    failure = await self._publisher.catch_up(station, proved)
                if failure is None:
                    self._publisher.note(proved)
                    self._welcome(station, time.monotonic() - began)
                    return
        except (CaravanError, RayError) as error:
            failure = str(error)
            station.num_failed += 1
            if station.num_failed == 1:
                logger.warning("%s cannot be started, and is tried again: %s", station.name, error)
        else:
            station.num_unproved += 1
            if station.num_unproved > 1:
                self._router.fail(_unproved(station, failure))
        finally:
            station.starting = None
            self.changed.set()
        station.kill()
        station.trouble = failure
        station.start_again_at = time.monotonic() + _back_off(max(station.num_barren - 1, station.num_failed))

    def _welcome(self, station: Station, seconds: float) -> None:
        station.num_unproved = station.num_failed = 0
        self._open(station)
        newest = self._publisher.policies.newest
        what = f"it has proved policy {newest}" if newest else "there is no policy to prove yet"
        self._tell(f"{station.name} is given work after {seconds:.0f} s: {what}")

    async def _retire(self, station: Station) -> None:
        await station.idle.wait()
        async with self._publisher.lock:
            pass  # a policy that was on its way to it has come
        with contextlib.suppress(CaravanError):  # one that does not end in good order, or is dead, is killed
            await station.shutdown()
        station.kill()
        self._leave(station)
        self._router.remove(station)
        self.leaving.remove(station)
        self._tell(f"{station.name} has ended what it had, and is gone")
        self.changed.set()

    def _open(self, station: Station) -> None:
        """Give work to a sampler, and count it as there."""
        station.there_since = time.monotonic()
        self._router.open(station)

    def _leave(self, station: Station) -> None:
        """Count a sampler as there no longer."""
        if station.there_since is not None:
            self._capacity_seconds += time.monotonic() - station.there_since
            station.there_since = None

    def _stop_tasks(self) -> None:
        for task in self._retiring:
            task.cancel()
        for station in self.stations:
            station.stop_starting()


def _back_off(num_failed: int) -> float:
    return BACK_OFF_SECONDS[min(num_failed, len(BACK_OFF_SECONDS) - 1)]


def _unproved(station: Station, failure: str) -> ModelError:
    return ModelError(
        f"{station.name} {failure}. A fresh engine failed like the one before it; going on would train on samples of "
        "another policy. Compare model, dtype and LoRA targets of learner and samplers, then resume the run"
    )
