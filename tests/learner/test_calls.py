"""The client's handling of the answers of several ranks, with fake ranks."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from cluster.errors import LearnerError
from learner.client import RayLearner, _ProcessLost
from learner.training.checkpoints import read_files, write_files
from tests.learner.factories import plan, settings

Answer = Callable[[], Awaitable[Any]]


def answers_with(answer: Any, *, after_seconds: float = 0.0) -> Answer:
    async def later() -> Any:
        await asyncio.sleep(after_seconds)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return later


def failed(cause: Exception) -> RayTaskError:
    return RayTaskError("step", "the traceback", cause)


NEVER = answers_with(None, after_seconds=1000)
LOST_CONNECTION = failed(LearnerError("the training loop ended: RuntimeError: Connection closed by peer"))


class Rank:
    def __init__(self, answer: Answer) -> None:
        self.step = self
        self.remote = lambda *_: answer()


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The actors of the ranks that were killed."""
    found: list[Any] = []
    monkeypatch.setattr("learner.client.GRACE_SECONDS", 1.0)
    monkeypatch.setattr("ray.kill", lambda actor, no_restart: found.append(actor))
    return found


def call(*answers: Answer) -> Any:
    """Return the result of ``learner.step`` with ranks that give these answers, and a deadline of 2 seconds."""
    learner_settings = settings(num_ranks=len(answers)).model_copy(update={"step_deadline_seconds": 2.0})
    learner = RayLearner(learner_settings, plan(Path("model"), Path("checkpoints")))
    learner._actors = [Rank(answer) for answer in answers]
    return asyncio.run(learner._call("step"))


def test_the_result_of_rank_0_is_returned_after_all_ranks_have_answered(killed: list[Any]) -> None:
    began = time.monotonic()
    assert call(answers_with("first"), answers_with(None, after_seconds=0.5)) == "first"
    assert time.monotonic() - began > 0.4
    assert killed == []


def test_a_rank_that_does_not_answer_is_lost_after_the_deadline(killed: list[Any]) -> None:
    with pytest.raises(_ProcessLost, match=r"did not answer within 2 s .*increase learner\.step_deadline_seconds"):
        call(answers_with("first"), NEVER)


def test_a_rank_that_died_is_lost_regardless_of_the_others(killed: list[Any]) -> None:
    died = answers_with(ActorDiedError(), after_seconds=0.3)
    for others in ([NEVER, died], [answers_with(LOST_CONNECTION), died, NEVER]):
        began = time.monotonic()
        with pytest.raises(
            _ProcessLost, match=rf"learner\.step on rank 1 of {len(others)} failed: the actor's process died"
        ):
            call(*others)
        assert time.monotonic() - began < 1.8  # the deadline is 2 seconds, and the grace 1


def test_an_error_of_a_rank_is_raised_and_waiting_ranks_are_killed(killed: list[Any]) -> None:
    with pytest.raises(LearnerError, match=r"learner\.step on rank 1 of 2 failed: MemoryError: no more"):
        call(NEVER, answers_with(failed(MemoryError("no more"))))
    assert len(killed) == 2


def test_if_all_ranks_raise_the_error_of_rank_0_is_raised_and_all_continue(killed: list[Any]) -> None:
    full = answers_with(failed(LearnerError("diverged; the batch is in ...")), after_seconds=0.5)
    with pytest.raises(LearnerError, match="the batch is in"):
        call(full, answers_with(failed(LearnerError("diverged"))))
    assert killed == []


def test_a_cancelled_save_ends_before_the_next_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"file-{number}": bytes(10) for number in range(4)}

    def slow_disk(files: dict[str, bytes], folder: Path) -> None:
        for name, content in files.items():
            time.sleep(0.1)
            write_files({name: content}, folder)

    monkeypatch.setattr("learner.client.write_files", slow_disk)

    class Saves:
        def __init__(self) -> None:
            self.save_checkpoint = self
            self.remote = lambda *_: answers_with((8, files))()

    async def scenario() -> None:
        client = RayLearner(settings(), plan(Path("model"), tmp_path))
        client._actors = [Saves()]
        first = asyncio.ensure_future(client.save_checkpoint())
        await asyncio.sleep(0.2)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert await client.save_checkpoint() == str(tmp_path / "checkpoint-8")

    asyncio.run(scenario())
    assert read_files(tmp_path / "checkpoint-8") == files
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-8"]


def test_a_lack_of_gpu_memory_is_reported_with_a_fix() -> None:
    with pytest.raises(
        LearnerError, match=r"CUDA out of memory\. .*; lower learner\.micro_batch_tokens.*gpu_memory_share"
    ):
        call(answers_with(failed(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."))))
