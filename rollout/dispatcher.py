"""Which sampler gets the next group: the least loaded one; while all are full, groups wait in the order they came."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from cluster.errors import CaravanError
from cluster.types import Usage


@dataclass(slots=True, eq=False)
class Seat:
    """One sampler as the router sees it."""

    name: str
    num_running: int = 0  # completions asked for and not yet handed over
    is_open: bool = False  # given work
    kept_for: "Waiting | None" = None  # the group that runs here alone, or will once the others have ended
    busy_since: float = 0.0  # when it last was given work having none, by the event loop's clock
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # set while nothing runs on it

    def __post_init__(self) -> None:
        self.idle.set()


@dataclass(slots=True, eq=False)
class Waiting:
    """A group that waits for a seat."""

    num_completions: int
    alone: bool
    since: float  # by the event loop's clock
    seat: asyncio.Future[Seat]


SeatT = TypeVar("SeatT", bound=Seat)


class Router(Generic[SeatT]):
    """Hands out seats, first come first served, and lets everyone who waits know when there will be none.

    A seat takes groups while fewer than ``max_running`` completions run on it. A group is not split, so that its prompt
    is prefilled once: it may overshoot by less than its size, and a large group waits no longer than a small one.
    """

    def __init__(self, max_running: int) -> None:
        self._max_running = max_running
        self._seats: list[SeatT] = []
        self._waiting: deque[Waiting] = deque()
        self._failure: CaravanError | None = None
        self._settled = asyncio.Event()  # some seat is open, or none ever will be
        self._busy_seconds = 0.0  # of the times when a seat had work that are over

    @property
    def num_open(self) -> int:
        """Samplers that are given work now."""
        return sum(seat.is_open for seat in self._seats)

    @property
    def has_failed(self) -> bool:
        """Whether all work is refused."""
        return self._failure is not None

    def open(self, seat: SeatT) -> None:
        """Give work to a sampler from now on."""
        if seat not in self._seats:
            self._seats.append(seat)
        seat.is_open = True
        self._settled.set()
        self._serve()

    def shut(self, seat: SeatT) -> None:
        """Give a sampler no more work; what runs on it may end."""
        seat.is_open = False
        if seat.kept_for is not None and not seat.kept_for.seat.done():
            self._waiting.appendleft(seat.kept_for)
        seat.kept_for = None
        if not self.num_open and self._failure is None:
            self._settled.clear()
        self._serve()

    def remove(self, seat: SeatT) -> None:
        """Forget a sampler that was shut and on which nothing runs."""
        if seat in self._seats:
            self._seats.remove(seat)

    def fail(self, error: CaravanError) -> None:
        """Refuse all work from now on, that of everyone who waits included."""
        self._failure = self._failure or error
        self._settled.set()
        self._waiting.extend(seat.kept_for for seat in self._seats if seat.kept_for is not None)
        for waiting in self._waiting:
            if not waiting.seat.done():
                waiting.seat.set_exception(self._error())
        self._waiting.clear()

    async def until_open(self) -> None:
        """Wait until some sampler is given work; raises the error that the router failed with."""
        await self._settled.wait()
        self.raise_if_failed()

    def raise_if_failed(self) -> None:
        """Raise the error that whoever asks for a seat would get."""
        if self._failure is not None:
            raise self._error()

    async def take(self, num_completions: int, *, alone: bool = False) -> SeatT:
        """Return the least loaded seat, charged with that many completions.

        ``alone`` keeps others off the seat, and waits until those that are there have ended. Raises the error that the
        router failed with.
        """
        self.raise_if_failed()
        waiting = Waiting(num_completions, alone, _now(), asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._serve()
        try:
            return cast(SeatT, await waiting.seat)
        except asyncio.CancelledError:
            self._forget(waiting)
            raise

    def give_back(self, seat: SeatT, num_completions: int) -> None:
        """Take that many completions off a seat's load."""
        if num_completions == 0:
            return
        seat.num_running -= num_completions
        if seat.num_running == 0:
            self._busy_seconds += _now() - seat.busy_since
            seat.idle.set()
            if seat.kept_for is not None and seat.kept_for.seat.done():
                seat.kept_for = None
        self._serve()

    def oldest_wait_seconds(self) -> float:
        """How long the group has waited that waits longest for any seat with room; 0 where none does."""
        return max((_now() - one.since for one in self._waiting if not one.alone and not one.seat.done()), default=0.0)

    def usage(self) -> Usage:
        """What the seats did so far; to be asked in the event loop that the router lives in."""
        now = _now()
        busy = [seat for seat in self._seats if seat.num_running > 0]
        kept = [seat.kept_for for seat in self._seats if seat.kept_for is not None and not seat.kept_for.seat.done()]
        return Usage(
            num_replicas=self.num_open,
            busy_seconds=self._busy_seconds + sum(now - seat.busy_since for seat in busy),
            num_running=sum(seat.num_running for seat in busy),
            num_waiting=sum(waiting.num_completions for waiting in [*self._waiting, *kept]),
        )

    def _serve(self) -> None:
        """Give seats to those who wait, in their order, for as long as there are any."""
        for seat in self._seats:
            if seat.kept_for is not None and not seat.kept_for.seat.done() and seat.num_running == 0:
                self._give(seat, seat.kept_for)
        while self._waiting:
            first = self._waiting[0]
            if first.seat.cancelled():
                self._waiting.popleft()
                continue
            free = [seat for seat in self._seats if seat.is_open and seat.kept_for is None]
            if not first.alone:
                free = [seat for seat in free if seat.num_running < self._max_running]
            if not free:
                return
            self._waiting.popleft()
            seat = min(free, key=lambda seat: seat.num_running)
            if first.alone:
                seat.kept_for = first
            if not first.alone or seat.num_running == 0:
                self._give(seat, first)

    def _give(self, seat: SeatT, waiting: Waiting) -> None:
        if seat.num_running == 0:
            seat.busy_since = _now()
            seat.idle.clear()
        seat.num_running += waiting.num_completions
        waiting.seat.set_result(seat)

    def _forget(self, waiting: Waiting) -> None:
        """Undo what was done for one that gives up."""
        for seat in self._seats:
            if seat.kept_for is waiting and waiting.seat.cancelled():
                seat.kept_for = None
        if waiting.seat.done() and not waiting.seat.cancelled() and waiting.seat.exception() is None:
            self.give_back(cast(SeatT, waiting.seat.result()), waiting.num_completions)
        self._serve()

    def _error(self) -> CaravanError:
        assert self._failure is not None
        return type(self._failure)(str(self._failure))


def _now() -> float:
    return asyncio.get_running_loop().time()
