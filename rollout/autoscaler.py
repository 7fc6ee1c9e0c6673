"""Has as many samplers as are wanted and have a place; where there is no room, the run goes on with those that there are."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from ray.exceptions import RayError

from cluster.actors.resources import SETTLE_SECONDS, wait_for_resources
from cluster.actors.scaling import LoadWindow, ScalingPolicy, desired_replicas
from cluster.protocols import Reservation
from cluster.types import Bounds
from rollout.dispatcher import Router
from rollout.lifecycle import Service
from rollout.replica import Station
from rollout.settings import MAX_SAMPLERS, RolloutSettings

TICK_SECONDS = 1.0
PAUSE_SECONDS = 30.0
"""For which Ray is left alone when it could not be asked."""


class Staffing:
    """Keeps a pool at the number of samplers that is wanted. Lives in one event loop, after ``ray.init``."""

    def __init__(
        self,
        settings: RolloutSettings,
        router: Router[Station],
        service: Service,
        *,
        reservation: Reservation | None,
        tell: Callable[[str], None],
        scaling: ScalingPolicy,
    ) -> None:
        """``reservation``: None for a pool that has the cluster alone; ``tell`` takes a line."""
        self._settings = settings
        self._router = router
        self._service = service
        self._reservation = reservation
        self._tell = tell
        self._scaling = scaling
        self._bounds = Bounds(minimum=settings.minimum, maximum=settings.maximum)
        self._wanted = settings.num_samplers
        self._window = LoadWindow(scaling)
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start those that have room, the least number in any case; the others follow when there is some.

        Raises ResourcesError where the least number has none, ModelError, SamplerError or DeadlineExceeded.
        """
        await wait_for_resources(
            "samplers",
            self._settings.bundle,
            self._bounds.minimum,
            free_seconds=SETTLE_SECONDS,
            join_seconds=0.0,
            advice="Wait for what else runs there, add machines, or lower rollout.num_samplers (or min_samplers), "
            "rollout.cpus_per_sampler, rollout.gpus_per_sampler or the resources of graders and learner",
        )
        number = await self._num_to_start()
        if number < self._wanted:
            self._tell(
                f"there is room for {number} of {self._wanted} samplers now; the others start when there is more"
            )
        self._service.add_stations(number)
        await self._service.start_all()
        self._keeping = asyncio.create_task(self._keep())
        self._keeping.add_done_callback(self._service.check_ended)

    async def scale(self, number: int | None, minimum: int | None, maximum: int | None) -> str:
        """Have another number of samplers, or let it change between other bounds; returns one line about what follows.

        A number alone holds until the next call; with a bound, the pool scales on from there. Raises ConfigError where what is
        asked for contradicts itself or the bounds that hold.
        """
        bounds = self._bounds.changed("samplers", number, minimum, maximum)
        before, self._bounds = self._wanted, bounds
        self._wanted = bounds.clamp(before if number is None else number)
        self._service.changed.set()
        line = f"scaling {before} -> {self._wanted} samplers"
        if bounds.minimum < bounds.maximum:
            line += f", from now on between {bounds.minimum} and {bounds.maximum}"
        try:
            possible = self._service.num_present + await self._left()
        except RayError:  # the keeper says so
            possible = self._wanted
        if self._wanted > possible:
            line += f"; the cluster has room for {possible} now, the others start when machines join"
        self._tell(line)
        return line

    def stop(self) -> None:
        """Change the number no more."""
        if self._keeping is not None:
            self._keeping.cancel()

    async def close(self) -> None:
        """Change the number no more, and claim nothing; may be called twice."""
        self.stop()
        await self._want(0, lacking=0)

    async def _keep(self) -> None:
        while not self._router.has_failed:
            self._service.changed.clear()
            try:
                self._decide()
                self._let_go()
                await self._start_where_there_is_room()
            except RayError as error:  # Ray's books cannot be read just now; the samplers work on
                self._tell(f"the number of samplers cannot be changed just now: {error}")
                await asyncio.sleep(PAUSE_SECONDS)
            self._service.give_up_alone()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):  # Python 3.11's wait_for may forget a cancellation
                    await self._service.changed.wait()

    def _decide(self) -> None:
        self._window.add(time.monotonic(), self._service.usage(), self._router.oldest_wait_seconds())
        wanted, why = desired_replicas(self._window.load(self._wanted), self._bounds, self._scaling)
        if wanted != self._wanted:
            self._tell(f"scaling {self._wanted} -> {wanted} samplers: {why}")
        self._wanted = wanted

    def _let_go(self) -> None:
        """Those first that are given no work, then those with the least to do; of these the newest, to empty new machines."""
        newest_first = self._service.stations[::-1]
        order = sorted(newest_first, key=lambda station: (station.is_open, station.num_running))
        for station in order[: max(0, len(order) - self._wanted)]:
            self._service.let_go(station)

    async def _start_where_there_is_room(self) -> None:
        self._service.add_stations(self._wanted)
        down = self._service.down()
        left = await self._left() if down else 0
        due = [station for station in down if time.monotonic() >= station.start_again_at]
        for station in due[:left]:
            self._service.begin(station)
        await self._want(self._wanted, lacking=max(0, len(down) - left))

    async def _num_to_start(self) -> int:
        if self._bounds.minimum == self._wanted:
            return self._wanted
        left = await self._left()
        for _ in range(int(SETTLE_SECONDS)):
            if left >= self._wanted:
                break
            await asyncio.sleep(1)
            left = await self._left()
        return max(self._bounds.minimum, min(self._wanted, left))

    async def _left(self) -> int:
        """How many more samplers have room now."""
        if self._reservation is None:
            return MAX_SAMPLERS
        return await asyncio.to_thread(self._reservation.num_additional, self._service.num_present)

    async def _want(self, number: int, *, lacking: int) -> None:
        if self._reservation is not None:
            least = min(number, self._bounds.minimum)
            await asyncio.to_thread(self._reservation.request, number, minimum=least, num_unplaced=lacking)
