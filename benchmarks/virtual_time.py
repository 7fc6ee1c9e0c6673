"""An event loop whose clock does not run but jumps: to the next timer, as soon as nothing else is left to do.

Simulated hours pass in the seconds that the code between the timers takes. Only what goes by the loop's clock is
simulated (``asyncio.sleep``, timeouts, ``call_later``); threads, processes and sockets would still take real time, which
the clock does not see, so that a simulation has none of them.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class NothingLeft(Exception):
    """Everybody waits, and no timer is set that could ever wake one of them."""


class _Jumping(selectors.SelectSelector):
    """Waits for nothing: where the loop would sleep until its next timer, the clock is there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft("the simulation stands still: every task waits and no timer is set")
        self.now_seconds += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that starts at 0 seconds and jumps from timer to timer."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Simulated seconds since the loop was made."""
        return self._jumping.now_seconds


def simulate(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in virtual time; raises NothingLeft where it comes to a standstill."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
