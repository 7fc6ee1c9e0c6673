"""Autoscaler: keeps the wanted number of replicas in a pool, or as many as the cluster has resources for."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Generic

from ray.exceptions import RayError

from cluster.actors.lifecycle import Lifecycle, R, ReplicaState
from cluster.actors.resources import SETTLE_SECONDS
from cluster.actors.scaling import LoadWindow, ScalingPolicy, desired_replicas
from cluster.protocols import Reservation
from cluster.types import Bounds

TICK_SECONDS = 1.0
RETRY_SECONDS = 30.0
"""Delay before the next attempt after a failed request to Ray."""

UNLIMITED = 2**31


class Autoscaler(Generic[R]):
    """Scales a pool within its bounds. To be created after ``ray.init``, and used in one event loop."""

    def __init__(
        self,
        lifecycle: Lifecycle[R],
        *,
        num_wanted: int,
        bounds: Bounds,
        scaling: ScalingPolicy,
        reservation: Reservation | None,
        log: Callable[[str], None],
    ) -> None:
        """``reservation``: None if no other component uses the cluster; ``log`` takes a log line."""
        self._lifecycle = lifecycle
        self._dispatcher = lifecycle.dispatcher
        self._pool = f"{lifecycle.kind}s"
        self._num_wanted = num_wanted
        self._bounds = bounds
        self._scaling = scaling
        self._reservation = reservation
        self._log = log
        self._window = LoadWindow(scaling)
        self._loop: asyncio.Task[None] | None = None

    async def start(self, number: int) -> None:
        """Start ``number`` replicas and wait for them; the loop starts the others. Raises the CaravanError of a failed start."""
        self._lifecycle.add(number)
        await self._lifecycle.start_all()
        self._loop = asyncio.create_task(self._run())
        self._loop.add_done_callback(self._lifecycle.check_ended)

    async def num_placeable(self) -> int:
        """Return the number of replicas that fit now, at least the minimum.

        Waits up to SETTLE_SECONDS for resources for all replicas.
        """
        if self._bounds.minimum == self._num_wanted:
            return self._num_wanted
        deadline = time.monotonic() + SETTLE_SECONDS
        num_additional = await self._num_additional()
        while num_additional < self._num_wanted and time.monotonic() < deadline:
            await asyncio.sleep(1)
            num_additional = await self._num_additional()
        number = max(self._bounds.minimum, min(self._num_wanted, num_additional))
        if number < self._num_wanted:
            self._log(
                f"{self._pool}: free resources for {number} of {self._num_wanted}; the others start when more are free"
            )
        return number

    async def scale(self, number: int | None, minimum: int | None, maximum: int | None) -> str:
        """Change the number of replicas or the bounds; returns a line about the consequences.

        A number without bounds becomes both bounds, so that the pool keeps it until the next call. With a bound given, the pool
        continues to scale. Raises ConfigError for contradictions.
        """
        bounds = self._bounds.changed(self._pool, number, minimum, maximum)
        before, self._bounds = self._num_wanted, bounds
        self._num_wanted = bounds.clamp(before if number is None else number)
        self._lifecycle.changed.set()
        line = f"scaling {before} -> {self._num_wanted} {self._pool}"
        if bounds.minimum < bounds.maximum:
            line += f", from now on between {bounds.minimum} and {bounds.maximum}"
        try:
            possible = self._lifecycle.num_present + await self._num_additional()
        except RayError:  # logged by the loop
            possible = self._num_wanted
        if self._num_wanted > possible:
            line += f"; the cluster has resources for {possible} now, the others start when machines join"
        self._log(line)
        return line

    def stop(self) -> None:
        """Stop scaling."""
        if self._loop is not None:
            self._loop.cancel()

    async def close(self) -> None:
        """Stop scaling, and release the reservation; may be called twice."""
        self.stop()
        await self._reserve(0, num_unplaced=0)

    async def _run(self) -> None:
        while not self._dispatcher.has_failed:
            self._lifecycle.changed.clear()
            try:
                self._decide()
                self._drain_surplus()
                await self._start_missing()
            except RayError as error:  # the cluster state cannot be read; the replicas continue
                self._log(f"{self._pool}: cannot scale now, next try in {RETRY_SECONDS:g} s: {error}")
                await asyncio.sleep(RETRY_SECONDS)
            self._lifecycle.fail_if_none_ready()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_SECONDS):  # wait_for of Python 3.11 can lose a cancellation
                    await self._lifecycle.changed.wait()

    def _decide(self) -> None:
        self._window.add(time.monotonic(), self._lifecycle.usage(), self._dispatcher.oldest_wait_seconds())
        number, reason = desired_replicas(self._window.load(self._num_wanted), self._bounds, self._scaling)
        if number != self._num_wanted:
            self._log(f"scaling {self._num_wanted} -> {number} {self._pool}: {reason}")
        self._num_wanted = number

    def _drain_surplus(self) -> None:
        """Drain surplus replicas: those that are not ready before the others, and the least loaded before the more loaded.

        Among equals the newest is drained first, so that the machines that joined last become idle.
        """
        newest_first = self._lifecycle.replicas[::-1]
        order = sorted(newest_first, key=lambda replica: (replica.state is ReplicaState.READY, replica.load))
        for replica in order[: max(0, len(order) - self._num_wanted)]:
            self._lifecycle.drain(replica)

    async def _start_missing(self) -> None:
        self._lifecycle.add(self._num_wanted)
        down = self._lifecycle.down()
        num_additional = await self._num_additional() if down else 0
        due = [replica for replica in down if time.monotonic() >= replica.start_at]
        for replica in due[:num_additional]:
            self._lifecycle.start(replica)
        await self._reserve(self._num_wanted, num_unplaced=max(0, len(down) - num_additional))

    async def _num_additional(self) -> int:
        if self._reservation is None:
            return UNLIMITED
        return await asyncio.to_thread(self._reservation.num_additional, self._lifecycle.num_present)

    async def _reserve(self, number: int, *, num_unplaced: int) -> None:
        if self._reservation is not None:
            minimum = min(number, self._bounds.minimum)
            await asyncio.to_thread(self._reservation.request, number, minimum=minimum, num_unplaced=num_unplaced)
