"""Event loop with virtual time: the clock jumps to the next timer as soon as nothing else is ready.

A simulated hour takes no longer than the simulation's own computation. ``asyncio.sleep``, timeouts and
``call_later`` use the virtual clock. Threads, processes and sockets do not, and a simulation must not use them.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class SimulationStalled(Exception):
    """All tasks wait and no timer is set: the simulation cannot continue."""


class _JumpingSelector(selectors.SelectSelector):
    """Selector that does not wait: instead of sleeping until the next timer, the clock jumps to it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise SimulationStalled("the simulation cannot continue: every task waits and no timer is set")
        self.now_seconds += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Event loop that starts at 0 seconds and jumps from timer to timer."""

    def __init__(self) -> None:
        self._selector_with_clock = _JumpingSelector()
        super().__init__(self._selector_with_clock)

    def time(self) -> float:
        """Return simulated seconds since the start of the loop."""
        return self._selector_with_clock.now_seconds


def simulate(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in virtual time. Raises SimulationStalled if all tasks wait."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(work)
