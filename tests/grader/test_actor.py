"""How the answer of a grader actor is waited for; the actors themselves are in test_grader_pool*.py."""

import asyncio
import concurrent.futures

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError, RuntimeEnvSetupError

from cluster.types import DeadlineExceeded
from grader.actor import GraderLost, answer


class Call:
    """A remote call, answered by whoever holds its future."""

    def __init__(self) -> None:
        self.answered: concurrent.futures.Future[object] = concurrent.futures.Future()

    def future(self) -> "concurrent.futures.Future[object]":
        return self.answered


@pytest.mark.parametrize(
    "error", [ActorDiedError(), OutOfMemoryError("the machine is full\nand more"), RuntimeEnvSetupError("no such file")]
)
def test_whatever_ends_a_grader_s_process_is_one_error_of_one_line(error: Exception) -> None:
    call = Call()
    call.answered.set_exception(error)
    with pytest.raises(
        GraderLost, match=r"^a grader actor did not grade a completion: its process is gone \([^\n]+\)$"
    ):
        asyncio.run(answer(call, 5, "grade a completion"))


def test_a_late_answer_is_an_error_with_its_deadline() -> None:
    with pytest.raises(DeadlineExceeded, match=r"did not start within 0.01 s"):
        asyncio.run(answer(Call(), 0.01, "start"))


@pytest.mark.parametrize("turns", range(6))
def test_who_is_cancelled_as_the_answer_comes_stays_cancelled(turns: int) -> None:
    async def scenario() -> None:
        call, went_on = Call(), []

        async def wait_and_go_on() -> None:
            await answer(call, 5, "close")
            await asyncio.sleep(0)
            went_on.append(True)
            await asyncio.sleep(1)

        task = asyncio.create_task(wait_and_go_on())
        await asyncio.sleep(0.01)
        call.answered.set_result(None)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 0.5)

    asyncio.run(scenario())
