"""TRL's training loop on a thread of its own, driven step by step from outside.

``Trainer.train()`` owns its loop and pulls batches from a data loader. Here the data loader is a ``BatchQueue`` that blocks until
a batch is submitted. Seen from outside, a step is an ordinary call that returns or raises::

    caller                          training thread, inside trainer.train()
    take_step(batch)  -- work -->   BatchQueue.__next__ returns the batch
      waits                         forward, backward, optimizer, schedule, log
      returns         <- answer --  BatchQueue.__next__ is called again: the step is done
    run(action)       -- work -->   BatchQueue.__next__ calls the action between two steps, and waits again

An exception that ends the thread is raised by every pending and every later call; no call waits for a thread that has ended.
"""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from cluster.errors import CaravanError, LearnerError
from learner.training.error_text import describe_error, with_advice

Batch = list[Any]
Result = TypeVar("Result")


class Trainer(Protocol):
    """The part of a Hugging Face trainer that the thread needs."""

    def train(self, resume_from_checkpoint: str | None = None) -> Any:
        """Iterate over the batch queue, one optimizer step per item."""
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
    """Iterator over at most ``num_batches`` batches that another thread submits; actions are called in between.

    The limit is needed because the Hugging Face trainer, resumed at its last step, would take one more.
    """

    def __init__(self, num_batches: int) -> None:
        self._num_left = num_batches
        self._work: queue.SimpleQueue[_Step | _Action | None] = queue.SimpleQueue()  # None marks the end
        self._running: _Step | None = None
        self._failure: BaseException | None = None
        self._lock = threading.Lock()  # orders submit() and fail()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.finish_step()
        if self._num_left == 0 or (step := self._next_step()) is None:
            raise StopIteration
        self._num_left -= 1
        self._running = step
        return step.batch

    def finish_step(self) -> None:
        """Answer the running step, if there is one."""
        if self._running is not None:
            step, self._running = self._running, None
            step.answer.set_result(None)

    def serve_actions(self) -> None:
        """Call actions and refuse steps until the end."""
        while (step := self._next_step()) is not None:
            step.answer.set_exception(LearnerError("all max_steps of the run are done: no further step can be taken"))

    def submit(self, work: _Step | _Action) -> None:
        """Queue work; after a failure, answer it with the failure."""
        with self._lock:
            if self._failure is None:
                self._work.put(work)
            else:
                work.answer.set_exception(self._failure)

    def end(self) -> None:
        """Mark the end of all work."""
        self._work.put(None)

    def fail(self, failure: BaseException) -> None:
        """Answer running, pending and all later work with a failure."""
        with self._lock:
            self._failure = failure
            pending: list[_Step | _Action] = [self._running] if self._running else []
            self._running = None
            while not self._work.empty():
                if (work := self._work.get()) is not None:
                    pending.append(work)
        for work in pending:
            work.answer.set_exception(failure)

    def _next_step(self) -> _Step | None:
        """Wait for a step and call the actions that come before it; None at the end."""
        while (work := self._work.get()) is not None:
            if isinstance(work, _Step):
                return work
            _call(work)
        self._work.put(None)  # later calls see the end too
        return None


def _call(action: _Action) -> None:
    # The boundary between the two threads: an action's exception goes to its caller, and training continues.
    try:
        result = action.call()
    except Exception as error:  # noqa: BLE001
        action.answer.set_exception(error)
    else:
        action.answer.set_result(result)


class TrainingThread:
    """A running ``trainer.train()`` that takes steps and calls actions on request."""

    def __init__(self, trainer: Trainer, batches: BatchQueue, *, prepare_thread: Callable[[], None]) -> None:
        self._trainer = trainer
        self._batches = batches
        self._prepare_thread = prepare_thread
        self._thread: threading.Thread | None = None

    def start(self, resume_from: str | None) -> None:
        """Start training, optionally from a checkpoint folder; errors of the start are raised by the first call."""
        self._thread = threading.Thread(target=self._train, args=(resume_from,), name="training", daemon=True)
        self._thread.start()

    def take_step(self, batch: Batch) -> None:
        """Take one optimizer step; returns when it is taken and logged and its state can be read."""
        step = _Step(batch, Future())
        self._batches.submit(step)
        step.answer.result()

    def run(self, action: Callable[[], Result]) -> Result:
        """Call an action on the training thread between two steps, and return its result."""
        work = _Action(action, Future())
        self._batches.submit(work)
        result: Result = work.answer.result()
        return result

    def close(self, timeout_seconds: float) -> None:
        """End the training and wait for its thread; may be called twice."""
        if self._thread is not None:
            self._batches.end()
            self._thread.join(timeout_seconds)

    def _train(self, resume_from: str | None) -> None:
        # The boundary between the two threads: every exception that ends training goes to the callers.
        try:
            self._prepare_thread()
            self._trainer.train(resume_from_checkpoint=resume_from)
            self._batches.finish_step()
            self._batches.serve_actions()  # after the last step a checkpoint or the adapter may still be requested
            self._batches.fail(LearnerError("the learner is closed"))
        except CaravanError as error:
            self._batches.fail(error)
        except BaseException as error:  # noqa: BLE001
            failure = LearnerError(with_advice(f"the training loop ended: {describe_error(error)}"))
            failure.__cause__ = error
            self._batches.fail(failure)
