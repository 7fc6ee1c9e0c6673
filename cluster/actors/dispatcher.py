"""Least-loaded dispatch of work to the workers of a pool, first come first served."""

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from cluster.errors import CaravanError
from cluster.types import Usage


@dataclass(slots=True, eq=False)
class Worker:
    """A unit that work is dispatched to, with its load."""

    name: str
    load: int = 0  # units of work that were dispatched and not released
    reserved_for: "_Request | None" = None  # exclusive work that runs here, or waits until this worker is idle
    busy_since: float | None = None  # by the event loop's clock
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # set while load is 0

    def __post_init__(self) -> None:
        self.idle.set()


@dataclass(slots=True, order=True)
class _Request:
    """Work that waits for a worker; the order is that of the queue."""

    since: float
    number: int
    load: int = field(compare=False)
    exclusive: bool = field(compare=False)
    queued_at: float = field(compare=False)
    worker: asyncio.Future[Worker] = field(compare=False)


W = TypeVar("W", bound=Worker)


class Dispatcher(Generic[W]):
    """Assigns workers to requests and tracks their load. Lives in one event loop.

    A worker gets work while its load is below ``max_load``. Work is not split: a request may exceed the limit, so that a large
    one waits no longer than a small one.
    """

    def __init__(self, max_load: int) -> None:
        self._max_load = max_load
        self._ready: list[W] = []
        self._draining: list[W] = []  # finish their work, and get no more
        self._queue: list[_Request] = []  # a heap
        self._numbers = itertools.count()
        self._error: CaravanError | None = None
        self._settled = asyncio.Event()  # a worker is ready, or the dispatcher failed
        self._busy_seconds = 0.0  # sum of completed busy periods

    @property
    def num_ready(self) -> int:
        """Number of workers that get work."""
        return len(self._ready)

    @property
    def has_failed(self) -> bool:
        """True if all work is refused."""
        return self._error is not None

    def add(self, worker: W) -> None:
        """Dispatch work to a worker from now on."""
        self._ready.append(worker)
        self._settled.set()
        self._dispatch()

    def drain(self, worker: W) -> None:
        """Dispatch no more work to a worker; its work may finish."""
        self._ready.remove(worker)
        self._draining.append(worker)
        self._requeue_exclusive(worker)

    def remove(self, worker: W) -> None:
        """Forget a worker, if it is known; its callers release its work later."""
        for workers in (self._ready, self._draining):
            if worker in workers:
                workers.remove(worker)
                self._end_busy(worker)
                self._requeue_exclusive(worker)

    def fail(self, error: CaravanError) -> None:
        """Refuse all work from now on, including the work that waits; the first error counts."""
        self._error = self._error or error
        self._settled.set()
        self.fail_waiting(self._error)

    def fail_waiting(self, error: CaravanError) -> None:
        """Refuse the work that waits now."""
        for worker in self._ready:
            self._unreserve(worker)
        queue, self._queue = self._queue, []
        for request in queue:
            if not request.worker.done():
                request.worker.set_exception(_copy(error))

    async def until_ready(self) -> None:
        """Wait for a ready worker; raises the error that the dispatcher failed with."""
        await self._settled.wait()
        if self._error is not None:
            raise _copy(self._error)

    async def take(self, load: int = 1, *, exclusive: bool = False, since: float | None = None) -> W:
        """Wait for the least loaded worker, and add to its load.

        Args:
            load: units of work.
            exclusive: wait until the worker has no other work, and keep other work away from it.
            since: time of the event loop's clock by which the queue is ordered; None: now.

        Raises the error that the dispatcher failed with.
        """
        while True:
            worker = await self._take(load, exclusive, since)
            if worker in self._ready:
                return worker
            self.release(worker, load)  # it was drained or removed before this task continued

    async def _take(self, load: int, exclusive: bool, since: float | None) -> W:
        if self._error is not None:
            raise _copy(self._error)
        now, future = _now(), asyncio.get_running_loop().create_future()
        request = _Request(now if since is None else since, next(self._numbers), load, exclusive, now, future)
        heapq.heappush(self._queue, request)
        self._dispatch()
        try:
            return cast(W, await future)
        except asyncio.CancelledError:
            self._on_cancelled(request)
            raise

    def release(self, worker: W, load: int = 1) -> None:
        """Subtract finished or failed work from a worker's load."""
        if load == 0:
            return
        worker.load -= load
        if worker.load == 0:
            self._end_busy(worker)
            worker.idle.set()
            if worker.reserved_for is not None and worker.reserved_for.worker.done():
                worker.reserved_for = None
        self._dispatch()

    def oldest_wait_seconds(self) -> float:
        """Return the longest wait in the queue, without exclusive work; 0 for an empty queue."""
        waiting = (request for request in self._queue if not request.exclusive and not request.worker.done())
        return max((_now() - request.queued_at for request in waiting), default=0.0)

    def usage(self) -> Usage:
        """Return the work of all workers so far; requires the running event loop."""
        now, workers = _now(), [*self._ready, *self._draining]
        reserved = [worker.reserved_for for worker in self._ready if worker.reserved_for is not None]
        waiting = [request for request in (*self._queue, *reserved) if not request.worker.done()]
        return Usage(
            num_replicas=len(self._ready),
            busy_seconds=self._busy_seconds
            + sum(now - worker.busy_since for worker in workers if worker.busy_since is not None),
            num_running=sum(worker.load for worker in workers),
            num_waiting=sum(request.load for request in waiting),
        )

    def _dispatch(self) -> None:
        """Assign workers to the requests, in the order of the queue, until no worker is free."""
        for worker in self._ready:
            request = worker.reserved_for
            if request is not None and not request.worker.done() and worker.load == 0:
                self._assign(worker, request)
        while self._queue:
            first = self._queue[0]
            if first.worker.done():  # cancelled
                heapq.heappop(self._queue)
                continue
            candidates = [worker for worker in self._ready if worker.reserved_for is None]
            if not first.exclusive:
                candidates = [worker for worker in candidates if worker.load < self._max_load]
            if not candidates:
                return
            heapq.heappop(self._queue)
            worker = min(candidates, key=lambda candidate: candidate.load)
            if first.exclusive:
                worker.reserved_for = first
            if not first.exclusive or worker.load == 0:
                self._assign(worker, first)

    def _assign(self, worker: W, request: _Request) -> None:
        if worker.busy_since is None:
            worker.busy_since = _now()
        worker.idle.clear()
        worker.load += request.load
        request.worker.set_result(worker)

    def _requeue_exclusive(self, worker: W) -> None:
        """Dispatch the exclusive work that waited for a worker to another one."""
        self._unreserve(worker)
        if not self._ready and self._error is None:
            self._settled.clear()
        self._dispatch()

    def _unreserve(self, worker: W) -> None:
        request, worker.reserved_for = worker.reserved_for, None
        if request is not None and not request.worker.done():
            heapq.heappush(self._queue, request)

    def _on_cancelled(self, request: _Request) -> None:
        for worker in self._ready:
            if worker.reserved_for is request and request.worker.cancelled():
                worker.reserved_for = None
        if request.worker.done() and not request.worker.cancelled() and request.worker.exception() is None:
            self.release(cast(W, request.worker.result()), request.load)
        self._dispatch()

    def _end_busy(self, worker: W) -> None:
        if worker.busy_since is not None:
            self._busy_seconds += _now() - worker.busy_since
            worker.busy_since = None


def _copy(error: CaravanError) -> CaravanError:
    """Return a new error for each caller, since raising an error adds to its traceback."""
    return type(error)(str(error))


def _now() -> float:
    return asyncio.get_running_loop().time()
