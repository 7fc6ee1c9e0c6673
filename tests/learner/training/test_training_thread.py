import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from cluster.errors import LearnerError
from learner.training.training_thread import BatchQueue, TrainingThread


def looping(train: Callable[[BatchQueue], object], *, num_batches: int = 3) -> TrainingThread:
    """A loop around a stand-in for the trainer: ``train(feed)``."""
    feed = BatchQueue(num_batches)
    trainer = SimpleNamespace(train=lambda resume_from_checkpoint: train(feed))
    loop = TrainingThread(trainer, feed, prepare_thread=lambda: None)
    loop.start(None)
    return loop


def test_a_step_returns_when_the_trainer_asks_for_the_next_one() -> None:
    taken: list[list[int]] = []
    loop = looping(lambda feed: taken.extend(feed))
    loop.take_step([1])
    assert taken == [[1]]
    loop.take_step([2])
    assert taken == [[1], [2]]
    loop.close(1)


def test_actions_run_on_the_training_thread_between_steps() -> None:
    names: list[str] = []
    loop = looping(lambda feed: names.extend(threading.current_thread().name for _ in feed))
    loop.take_step([1])
    assert loop.run(lambda: threading.current_thread().name) == names[0] == "training"
    loop.close(1)


def test_what_an_action_raises_reaches_its_caller_and_training_goes_on() -> None:
    loop = looping(list)
    with pytest.raises(ZeroDivisionError):
        loop.run(lambda: 1 // 0)
    loop.take_step([1])
    loop.close(1)


def test_what_ends_the_training_reaches_the_step_under_way_and_every_later_call() -> None:
    def train(feed: BatchQueue) -> None:
        for _ in feed:
            raise RuntimeError("out of memory")

    loop = looping(train)
    for _ in range(2):
        with pytest.raises(LearnerError, match="RuntimeError: out of memory"):
            loop.take_step([1])
    with pytest.raises(LearnerError, match="out of memory"):
        loop.run(lambda: None)


def test_training_that_fails_before_its_first_step_answers_too() -> None:
    def train(feed: BatchQueue) -> None:
        raise LearnerError("no such checkpoint")

    with pytest.raises(LearnerError, match="no such checkpoint"):
        looping(train).run(lambda: None)


def test_after_the_last_step_actions_are_answered_and_steps_refused() -> None:
    loop = looping(list, num_batches=1)
    loop.take_step([1])
    with pytest.raises(LearnerError, match="max_steps are taken"):
        loop.take_step([2])
    assert loop.run(lambda: "saved") == "saved"
    loop.close(1)
    with pytest.raises(LearnerError, match="closed"):
        loop.run(lambda: None)


def test_resumed_at_its_last_step_the_trainer_gets_no_further_batch() -> None:
    taken: list[list[int]] = []
    loop = looping(lambda feed: taken.extend(feed), num_batches=0)
    with pytest.raises(LearnerError, match="max_steps are taken"):
        loop.take_step([1])
    assert taken == []
    loop.close(1)


def test_closing_twice_is_closing_once() -> None:
    loop = looping(list)
    loop.close(1)
    loop.close(1)
