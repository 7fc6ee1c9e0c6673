"""Replicas of a pool, each a Ray actor, and the only place where their states change.

::

    DOWN -> STARTING -> VERIFYING -> READY -> DRAINING -> removed
      ^         |           |          |
      +---------+-----------+----------+   failed, died or hung: evicted, and started again

A replica gets work while it is READY, and finishes it while it is DRAINING.
"""

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Generic, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from cluster.actors.dispatcher import Dispatcher, Worker
from cluster.errors import CaravanError
from cluster.types import Usage

logger = logging.getLogger(__name__)

BACK_OFF_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Wait before a start, by the number of earlier failures; the last value applies to all further ones."""


class ReplicaState(StrEnum):
    """State of a replica."""

    DOWN = "down"  # has no actor
    STARTING = "starting"  # its actor is being placed and started
    VERIFYING = "verifying"  # the actor is being brought to the pool's current state
    READY = "ready"
    DRAINING = "draining"


@dataclass(slots=True, eq=False)
class Replica(Worker, ABC):
    """One replica of a pool; when its actor dies, another actor takes its place."""

    state: ReplicaState = ReplicaState.DOWN
    actor: ActorHandle | None = None
    task: "asyncio.Task[None] | None" = None  # its start, or its drain
    ready_since: float | None = None  # monotonic seconds; None: neither READY nor DRAINING
    down_since: float = field(default_factory=time.monotonic)  # time at which it was last READY, or created
    start_at: float = 0.0  # earliest time of the next start, monotonic seconds
    last_error: str = "no free resources"  # the reason for being DOWN
    num_failed_starts: int = 0  # consecutive ones
    num_crashes: int = 0  # consecutive ones without output

    @abstractmethod
    async def start_actor(self) -> None:
        """Set ``actor`` and wait until it has started; raises CaravanError."""

    @abstractmethod
    async def stop_actor(self) -> None:
        """Shut the actor down cleanly, if there is one; raises CaravanError."""

    def kill(self) -> None:
        """End the actor's process at once."""
        if self.actor is not None:
            ray.kill(self.actor)
            self.actor = None


R = TypeVar("R", bound=Replica)


class Lifecycle(ABC, Generic[R]):
    """Starts, evicts and drains the replicas of a pool. Lives in one event loop, after ``ray.init``."""

    def __init__(self, kind: str, dispatcher: Dispatcher[R], new_replica: Callable[[str], R]) -> None:
        """``kind`` names a replica: "sampler"; ``new_replica`` takes a name."""
        self.kind = kind
        self.dispatcher = dispatcher
        self.replicas: list[R] = []  # as many as are wanted
        self.draining: list[R] = []
        self.changed = asyncio.Event()  # set when a replica went down or has started
        self._new_replica = new_replica
        self._capacity_seconds = 0.0  # lifetimes of replicas that are DOWN now
        self._num_lost = 0

    async def verify(self, replica: R) -> None:
        """Bring a started replica to the pool's current state; raises CaravanError."""

    @abstractmethod
    def fail_if_none_ready(self) -> None:
        """Fail the waiting work if no replica is ready and none is expected soon."""

    @abstractmethod
    def broken(self, error: BaseException) -> CaravanError:
        """Return the error of all further work after a failure of the pool's own code."""

    def on_ready(self, replica: R, seconds: float) -> None:
        """Called when a replica that was started during the run is READY."""

    def on_evicted(self, replica: R, error: CaravanError) -> None:
        """Called when a replica was evicted."""

    async def before_stop(self) -> None:
        """Wait for calls of a drained replica that the dispatcher does not count as work."""

    def on_drained(self, replica: R) -> None:
        """Called when a replica was drained and stopped."""

    @property
    def num_present(self) -> int:
        """Number of replicas that hold resources."""
        return sum(replica.state is not ReplicaState.DOWN for replica in (*self.replicas, *self.draining))

    def down(self) -> list[R]:
        """Return the replicas without an actor."""
        return [replica for replica in self.replicas if replica.state is ReplicaState.DOWN]

    def usage(self) -> Usage:
        """Return the work of all replicas so far."""
        now, replicas = time.monotonic(), (*self.replicas, *self.draining)
        present = sum(now - replica.ready_since for replica in replicas if replica.ready_since is not None)
        capacity_seconds = self._capacity_seconds + present
        return replace(self.dispatcher.usage(), capacity_seconds=capacity_seconds, num_lost=self._num_lost)

    def add(self, number: int) -> None:
        """Create replicas, DOWN, until there are ``number``; each gets the first unused name."""
        while len(self.replicas) < number:
            taken = {replica.name for replica in (*self.replicas, *self.draining)}
            names = (f"{self.kind} {index}" for index in range(len(taken) + 1))
            self.replicas.append(self._new_replica(next(name for name in names if name not in taken)))

    async def start_all(self) -> None:
        """Start every replica, and wait until all are ready; raises the first CaravanError."""
        for replica in self.replicas:
            replica.state = ReplicaState.STARTING
            replica.task = asyncio.create_task(self._start(replica))
        await asyncio.gather(*(replica.task for replica in self.replicas if replica.task))

    def start(self, replica: R) -> None:
        """Begin to start a replica that is DOWN."""
        replica.state = ReplicaState.STARTING
        replica.task = asyncio.create_task(self._start_or_back_off(replica))
        replica.task.add_done_callback(self.check_ended)

    def drain(self, replica: R) -> None:
        """Remove a replica: one that is READY finishes its work, any other one is stopped at once."""
        self.replicas.remove(replica)
        if replica.state is ReplicaState.READY:
            replica.state = ReplicaState.DRAINING
            self.dispatcher.drain(replica)
            self.draining.append(replica)
            replica.task = asyncio.create_task(self._finish(replica))
            replica.task.add_done_callback(self.check_ended)
        else:
            if replica.task is not None:
                replica.task.cancel()
            self._set_down(replica)

    def evict(self, replica: R, actor: ActorHandle | None, error: CaravanError) -> bool:
        """Kill an actor that died or hangs, and schedule the start of its replacement.

        Returns False, and schedules nothing, if the actor was evicted before or is draining.
        """
        if actor is None or replica.actor is not actor:
            return False
        self._set_down(replica)
        if replica in self.draining:
            return False
        self._num_lost += 1
        replica.num_failed_starts = 0
        replica.down_since = replica.start_at = time.monotonic()
        replica.last_error = str(error)
        self.on_evicted(replica, error)
        self.changed.set()
        return True

    async def close(self) -> None:
        """Stop every actor and leave no process behind; may be called twice."""
        self._cancel_tasks()
        # An actor that does not shut down is killed below.
        replicas = (*self.replicas, *self.draining)
        await asyncio.gather(*(replica.stop_actor() for replica in replicas), return_exceptions=True)
        self.kill_all()

    def kill_all(self) -> None:
        """End every actor at once."""
        self._cancel_tasks()
        for replica in (*self.replicas, *self.draining):
            self._set_down(replica)

    def check_ended(self, task: "asyncio.Task[None]") -> None:
        """Fail all work if a task of the pool failed: otherwise work could wait forever for replicas."""
        if not task.cancelled() and (error := task.exception()):
            self.dispatcher.fail(self.broken(error))

    def back_off(self, replica: R) -> None:
        """Set the time of the next start by the number of failures."""
        num_failures = max(replica.num_crashes - 1, replica.num_failed_starts)
        replica.start_at = time.monotonic() + BACK_OFF_SECONDS[min(num_failures, len(BACK_OFF_SECONDS) - 1)]

    async def _start(self, replica: R) -> None:
        await replica.start_actor()
        replica.state = ReplicaState.VERIFYING
        await self.verify(replica)  # must not wait after its last check: the replica would miss a change of the state
        replica.state = ReplicaState.READY
        replica.ready_since = time.monotonic()
        replica.num_failed_starts = 0
        self.dispatcher.add(replica)

    async def _start_or_back_off(self, replica: R) -> None:
        began = time.monotonic()
        try:
            await self._start(replica)
        except (CaravanError, RayError) as error:
            self._set_down(replica)
            same_failure = [
                other for other in self.replicas if other.num_failed_starts and other.last_error == str(error)
            ]
            if not replica.num_failed_starts and not same_failure and not self.dispatcher.has_failed:
                logger.warning("%s: start failed, retrying with back-off: %s", replica.name, error)
            replica.num_failed_starts += 1
            replica.last_error = str(error)
            self.back_off(replica)
        else:
            self.on_ready(replica, time.monotonic() - began)
        finally:
            self.changed.set()

    async def _finish(self, replica: R) -> None:
        await replica.idle.wait()
        await self.before_stop()
        with contextlib.suppress(CaravanError, RayError):  # killed instead
            await replica.stop_actor()
        self._set_down(replica)
        self.draining.remove(replica)
        self.on_drained(replica)
        self.changed.set()

    def _set_down(self, replica: R) -> None:
        replica.state = ReplicaState.DOWN
        if replica.ready_since is not None:
            self._capacity_seconds += time.monotonic() - replica.ready_since
            replica.ready_since = None
            self.dispatcher.remove(replica)
        replica.kill()

    def _cancel_tasks(self) -> None:
        for replica in (*self.replicas, *self.draining):
            if replica.task is not None:
                replica.task.cancel()
