"""Threads with one grader each: they process a stream of items in parallel and return the results in the order of the items.

The threads only wait: the work is done by each grader's OCaml processes.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cluster.cores import usable_cores
from cluster.errors import UngradableError
from grader.grade import Grader
from grader.process import StartFailed
from grader.settings import GraderSettings

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOOK_AHEAD_PER_WORKER = 8


def with_retries(attempts: int, work: Callable[[], Result]) -> Result | UngradableError:
    """Do the work up to ``attempts`` times, until it raises no UngradableError; return its result or the last error.

    If the last error is a StartFailed, it is raised: every other item would fail as well.
    """
    error = UngradableError("no attempt was made")
    for _ in range(attempts):
        try:
            return work()
        except UngradableError as caught:
            error = caught
    if isinstance(error, StartFailed):
        raise error
    return error


class GraderThreads:
    """A fixed number of graders; ``close`` ends their processes."""

    def __init__(self, settings: GraderSettings, num_workers: int | None = None) -> None:
        """Create the graders, by default one per usable core; raises ToolchainError and SandboxError as Grader does."""
        num_workers = num_workers or usable_cores()
        # Created in the calling thread, so that a missing compiler is reported once and not once per item.
        self._graders = [Grader(settings) for _ in range(num_workers)]
        self.sandbox = self._graders[0].sandbox
        self._idle = deque(self._graders)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(max_workers=num_workers, thread_name_prefix="grader")
        self._look_ahead = num_workers * _LOOK_AHEAD_PER_WORKER

    def in_order(self, items: Iterable[Item], work: Callable[[Grader, Item], Result]) -> Iterator[Result]:
        """Process the items and yield the results in the order of the items. The number of waiting results is bounded."""
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(self._pool.submit(self._with_grader, work, item))
            if len(pending) >= self._look_ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _with_grader(self, work: Callable[[Grader, Item], Result], item: Item) -> Result:
        with self._lock:
            grader = self._idle.popleft()
        try:
            return work(grader, item)
        finally:
            with self._lock:
                self._idle.append(grader)

    def close(self) -> None:
        """End all threads and processes."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        # A thread that waits for a process continues when the process has ended.
        for grader in self._graders:
            grader.close()
        self._pool.shutdown(wait=True)
        # A thread that was still grading may have started new processes.
        for grader in self._graders:
            grader.close()
