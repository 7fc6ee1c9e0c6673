"""Event loop with virtual time: the clock jumps to the next timer as soon as nothing else is ready.

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
    """All tasks wait and no timer is set: the simulation cannot continue."""


class _Jumping(selectors.SelectSelector):
    """Selector that does not wait: instead of sleeping until the next timer, the clock jumps to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise NothingLeft("the simulation stands still: every task waits and no timer is set")
        self.now_seconds += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Event loop that starts at 0 seconds and jumps from timer to timer."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return simulated seconds since the start of the loop."""
        return self._jumping.now_seconds


def simulate(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in virtual time. Raises NothingLeft if all tasks wait."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
