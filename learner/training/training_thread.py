"""TRL's training loop, turned inside out: it runs on its own thread, and waits there for the next step.

``Trainer.train()`` owns its loop and asks a data loader for batches. Here the data loader is a ``BatchQueue`` that blocks until
a batch is submitted, so that from outside a step is an ordinary call that returns or raises::

    caller                          training thread, inside trainer.train()
    take_step(batch)  -- work -->   BatchQueue.__next__ returns the batch
      waits                         forward, backward, optimizer, schedule, log
      returns         <- answer --  BatchQueue.__next__ is called again: the step is over
    run(action)       -- work -->   BatchQueue.__next__ calls the action between two steps, and goes on waiting

Whatever ends the thread is what every waiting and every later call raises; no call waits for a thread that is gone.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from cluster.errors import CaravanError, LearnerError
from learner.training.error_text import describe_error

Batch = list[Any]
Result = TypeVar("Result")


class Trainer(Protocol):
    """The part of a Hugging Face trainer that the loop drives."""

    def train(self, resume_from_checkpoint: str | None = None) -> Any:
        """Iterate over the feed, one optimizer step per item."""
        ...


@dataclass(slots=True)
class _Step:
    batch: Batch
    answer: "Future[None]"


@dataclass(slots=True)
class _Action:
    call: Callable[[], Any]
    answer: "Future[Any]"


class BatchQueue:
    """An iterator of at most ``num_batches`` batches that are handed in from another thread; actions are called in between.

    It counts because the Hugging Face trainer, resumed at its last step, would take one more.
    """

    def __init__(self, num_batches: int) -> None:
        self._num_left = num_batches
        self._work: queue.SimpleQueue[_Step | _Action | None] = queue.SimpleQueue()
        self._running: _Step | None = None
        self._failure: BaseException | None = None
        self._lock = threading.Lock()  # between handing in work and failing

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.settle()
        if self._num_left == 0 or (step := self._next_step()) is None:
            raise StopIteration
        self._num_left -= 1
        self._running = step
        return step.batch

    def settle(self) -> None:
        """Answer the step that has just ended, if there is one."""
        if self._running is not None:
            step, self._running = self._running, None
            step.answer.set_result(None)

    def serve_actions(self) -> None:
        """Call actions and refuse steps until the end."""
        while (step := self._next_step()) is not None:
            step.answer.set_exception(LearnerError("the run's max_steps are taken: there is no further step to take"))

    def submit(self, work: _Step | _Action) -> None:
        """Queue work, or answer it with what ended the thread."""
        with self._lock:
            if self._failure is None:
                self._work.put(work)
            else:
                work.answer.set_exception(self._failure)

    def end(self) -> None:
        """No more work will come."""
        self._work.put(None)

    def fail(self, failure: BaseException) -> None:
        """Answer the running work, all that waits and all that will come with a failure."""
        with self._lock:
            self._failure = failure
            waiting: list[_Step | _Action] = [self._running] if self._running else []
            self._running = None
            while not self._work.empty():
                if (work := self._work.get()) is not None:
                    waiting.append(work)
        for work in waiting:
            work.answer.set_exception(failure)

    def _next_step(self) -> _Step | None:
        """Wait for a step, calling the actions that come before it; None at the end."""
        while (work := self._work.get()) is not None:
            if isinstance(work, _Step):
                return work
            _run(work)
        self._work.put(None)  # ended stays ended, however often one asks
        return None


def _run(action: _Action) -> None:
    # The boundary between the two threads: what an action raises belongs to its caller, and training goes on.
    try:
        result = action.call()
    except Exception as error:  # noqa: BLE001
        action.answer.set_exception(error)
    else:
        action.answer.set_result(result)


class TrainingThread:
    """A running ``trainer.train()`` that answers calls."""

    def __init__(self, trainer: Trainer, feed: BatchQueue, *, prepare_thread: Callable[[], None]) -> None:
        self._trainer = trainer
        self._feed = feed
        self._prepare_thread = prepare_thread
        self._thread: threading.Thread | None = None

    def start(self, resume_from: str | None) -> None:
        """Start training, from a checkpoint folder where one is given; its first answer says whether that went well."""
        self._thread = threading.Thread(target=self._train, args=(resume_from,), name="training", daemon=True)
        self._thread.start()

    def take_step(self, batch: Batch) -> None:
        """Take one optimizer step; returns when it is taken, logged and its state can be read."""
        step = _Step(batch, Future())
        self._feed.submit(step)
        step.answer.result()

    def run(self, action: Callable[[], Result]) -> Result:
        """Call an action on the training thread between two steps, and return what it returns."""
        work = _Action(action, Future())
        self._feed.submit(work)
        result: Result = work.answer.result()
        return result

    def close(self, timeout_seconds: float) -> None:
        """End the training and wait for its thread; may be called twice."""
        if self._thread is not None:
            self._feed.end()
            self._thread.join(timeout_seconds)

    def _train(self, resume_from: str | None) -> None:
        # The boundary between the two threads: whatever ends training is what the callers get to see.
        try:
            self._prepare_thread()
            self._trainer.train(resume_from_checkpoint=resume_from)
            self._feed.settle()
            self._feed.serve_actions()  # all steps are taken, but a checkpoint or the adapter may still be asked for
            self._feed.fail(LearnerError("the learner is closed"))
        except CaravanError as error:
            self._feed.fail(error)
        except BaseException as error:  # noqa: BLE001
            failure = LearnerError(f"the training loop ended: {describe_error(error)}")
            failure.__cause__ = error
            self._feed.fail(failure)
