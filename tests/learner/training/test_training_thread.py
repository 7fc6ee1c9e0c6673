import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from cluster.errors import LearnerError
from learner.training.training_thread import BatchQueue, TrainingThread


def training_on(train: Callable[[BatchQueue], object], *, num_batches: int = 3) -> TrainingThread:
    """A loop around a stand-in for the trainer: ``train(batches)``."""
    batches = BatchQueue(num_batches)
    trainer = SimpleNamespace(train=lambda resume_from_checkpoint: train(batches))
    loop = TrainingThread(trainer, batches, prepare_thread=lambda: None)
    loop.start(None)
    return loop


def test_a_step_returns_when_the_trainer_asks_for_the_next_one() -> None:
    taken: list[list[int]] = []
    loop = training_on(lambda batches: taken.extend(batches))
    loop.take_step([1])
    assert taken == [[1]]
    loop.take_step([2])
    assert taken == [[1], [2]]
    loop.close(1)


def test_actions_run_on_the_training_thread_between_steps() -> None:
    names: list[str] = []
    loop = training_on(lambda batches: names.extend(threading.current_thread().name for _ in batches))
    loop.take_step([1])
    assert loop.run(lambda: threading.current_thread().name) == names[0] == "training"
    loop.close(1)


def test_an_error_of_an_action_reaches_its_caller_and_training_continues() -> None:
    loop = training_on(list)
    with pytest.raises(ZeroDivisionError):
        loop.run(lambda: 1 // 0)
    loop.take_step([1])
    loop.close(1)


def test_an_error_of_the_training_reaches_the_running_step_and_every_later_call() -> None:
    def train(batches: BatchQueue) -> None:
        for _ in batches:
            raise RuntimeError("out of memory")

    loop = training_on(train)
    for _ in range(2):
        with pytest.raises(LearnerError, match="RuntimeError: out of memory"):
            loop.take_step([1])
    with pytest.raises(LearnerError, match="out of memory"):
        loop.run(lambda: None)


def test_calls_fail_if_training_fails_before_its_first_step() -> None:
    def train(batches: BatchQueue) -> None:
        raise LearnerError("no such checkpoint")

    with pytest.raises(LearnerError, match="no such checkpoint"):
        training_on(train).run(lambda: None)


def test_after_the_last_step_actions_run_and_steps_are_refused() -> None:
    loop = training_on(list, num_batches=1)
    loop.take_step([1])
    with pytest.raises(LearnerError, match="max_steps of the run are done"):
        loop.take_step([2])
    assert loop.run(lambda: "saved") == "saved"
    loop.close(1)
    with pytest.raises(LearnerError, match="closed"):
        loop.run(lambda: None)


def test_a_trainer_that_resumes_at_its_last_step_gets_no_batch() -> None:
    taken: list[list[int]] = []
    loop = training_on(lambda batches: taken.extend(batches), num_batches=0)
    with pytest.raises(LearnerError, match="max_steps of the run are done"):
        loop.take_step([1])
    assert taken == []
    loop.close(1)


def test_a_thread_can_be_closed_twice() -> None:
    loop = training_on(list)
    loop.close(1)
    loop.close(1)


def test_a_lack_of_gpu_memory_is_reported_with_a_fix() -> None:
    def fail(_: BatchQueue) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(LearnerError, match=r"Tried to allocate 2.00 GiB.; lower learner.micro_batch_tokens, set"):
        training_on(fail).take_step([1])
