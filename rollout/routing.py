"""Which sampler gets the next group: the least loaded one, and none while all of them are full."""

import asyncio
from dataclasses import dataclass
from typing import Generic, TypeVar

from cluster.types import SamplerError


@dataclass(slots=True, eq=False)
class Seat:
    """One sampler as the router sees it."""

    name: str
    num_running: int = 0  # completions asked for and not yet handed over
    is_open: bool = False  # given work


SeatT = TypeVar("SeatT", bound=Seat)


class Router(Generic[SeatT]):
    """Hands out seats, waits while none is free, and lets everyone who waits know when there will be none."""

    def __init__(self, max_running: int) -> None:
        self._max_running = max_running
        self._seats: list[SeatT] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._failure: str | None = None

    def open(self, seat: SeatT) -> None:
        """Give work to a sampler from now on."""
        if seat not in self._seats:
            self._seats.append(seat)
        seat.is_open = True
        self._wake()

    def shut(self, seat: SeatT) -> None:
        """Give a sampler no more work."""
        seat.is_open = False

    def fail(self, reason: str) -> None:
        """Refuse all work from now on, that of everyone who waits included."""
        self._failure = self._failure or reason
        self._wake()

    def raise_if_failed(self) -> None:
        """Raise the SamplerError that whoever asks for a seat would get."""
        if self._failure is not None:
            raise SamplerError(self._failure)

    async def take(self, num_completions: int) -> SeatT:
        """Return the least loaded seat, charged with that many completions; groups are not split over samplers.

        Raises SamplerError once there will be no seat.
        """
        while True:
            self.raise_if_failed()
            free = [seat for seat in self._seats if seat.is_open and seat.num_running < self._max_running]
            if free:
                seat = min(free, key=lambda candidate: candidate.num_running)
                seat.num_running += num_completions
                return seat
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(woken)
            await woken

    def give_back(self, seat: SeatT, num_completions: int) -> None:
        """Take that many completions off a seat's load."""
        seat.num_running -= num_completions
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for woken in waiting:
            if not woken.done():
                woken.set_result(None)
