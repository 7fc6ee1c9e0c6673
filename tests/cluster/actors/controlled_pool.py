"""A pool whose replicas start under the control of the test; their actors are plain objects."""

import asyncio
from dataclasses import dataclass, field

from cluster.actors.dispatcher import Dispatcher
from cluster.actors.lifecycle import Lifecycle, Replica
from cluster.errors import CaravanError, ResourcesError, SamplerError


@dataclass(slots=True, eq=False)
class FakeReplica(Replica):
    """A replica that starts, or fails with ``start_error``, once ``may_start`` is set."""

    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    start_error: CaravanError | None = None
    num_stopped: int = 0

    async def start_actor(self) -> None:
        self.actor = object()
        await self.may_start.wait()
        if self.start_error is not None:
            raise self.start_error

    async def stop_actor(self) -> None:
        if self.actor is not None:
            self.num_stopped += 1

    def kill(self) -> None:
        self.actor = None


class FakeLifecycle(Lifecycle[FakeReplica]):
    """Replicas that start at once, unless ``waits`` is set."""

    def __init__(self, *, waits: bool = False) -> None:
        super().__init__("part", Dispatcher(max_load=2), self._new)
        self.waits = waits
        self.verified: list[str] = []
        self.events: list[str] = []
        self.num_checks = 0

    def _new(self, name: str) -> FakeReplica:
        replica = FakeReplica(name=name)
        if not self.waits:
            replica.may_start.set()
        return replica

    async def verify(self, replica: FakeReplica) -> None:
        self.verified.append(f"{replica.name} {replica.state}")

    def fail_if_none_ready(self) -> None:
        self.num_checks += 1

    def broken(self, error: BaseException) -> CaravanError:
        return SamplerError(f"broken: {error!r}")

    def on_ready(self, replica: FakeReplica, seconds: float) -> None:
        self.events.append(f"{replica.name} ready")

    def on_evicted(self, replica: FakeReplica, error: CaravanError) -> None:
        self.events.append(f"{replica.name} evicted: {error}")

    def on_drained(self, replica: FakeReplica) -> None:
        self.events.append(f"{replica.name} drained")


class FakeReservation:
    """Resources for a fixed number of replicas; stores the newest request."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.requested: tuple[int, int, int] | None = None  # number, minimum, unplaced

    def num_additional(self, num_present: int) -> int:
        return max(0, self.size - num_present)

    def request(self, number: int, *, minimum: int, num_unplaced: int) -> None:
        self.requested = (number, minimum, num_unplaced)


NO_START = ResourcesError("no OCaml here")


async def let_tasks_run(number: int = 5) -> None:
    """Let other tasks run."""
    for _ in range(number):
        await asyncio.sleep(0)
