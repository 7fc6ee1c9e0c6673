"""Ctrl-C and SIGTERM: a first signal may end the work with a checkpoint, a second one ends it at once."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from cluster.console import View

INTERRUPTED = 130
"""The exit code of a program that Ctrl-C ended."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Event = TypeVar("Event", asyncio.Event, threading.Event)


class Interruption(Generic[Event]):
    """The reaction to signals: the first signal in a ``graceful`` block sets ``requested``, any other signal aborts."""

    def __init__(self, view: View, requested: Event, abort: Callable[[], object]) -> None:
        self.requested: Event = requested
        self._view = view
        self._abort = abort
        self._is_graceful = False

    @contextmanager
    def graceful(self) -> Iterator[None]:
        """Let the first signal during the block only set ``requested``, which the work in the block checks."""
        self._is_graceful = True
        try:
            yield
        finally:
            self._is_graceful = False

    def on_signal(self, *_: Any) -> None:
        """Handle one signal."""
        if self._is_graceful and not self.requested.is_set():
            self._view.log(
                "stopping: the current step is finished, then a checkpoint is saved; Ctrl-C again stops at once"
            )
            self.requested.set()
        else:
            self._abort()


def interruption_of_task(view: View) -> Interruption[asyncio.Event]:
    """Handle signals from now on in the running event loop; a signal that aborts cancels the current task."""
    task = asyncio.current_task()
    assert task is not None  # called by a coroutine
    interruption = Interruption(view, asyncio.Event(), task.cancel)
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, interruption.on_signal)
    return interruption


@contextmanager
def interruption_of_thread(view: View) -> Iterator[Interruption[threading.Event]]:
    """Handle signals during the block, in a main thread without event loop; a signal that aborts raises KeyboardInterrupt."""
    interruption = Interruption(view, threading.Event(), _raise_keyboard_interrupt)
    before = {number: signal.signal(number, interruption.on_signal) for number in SIGNALS}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt
