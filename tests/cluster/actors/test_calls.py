"""Remote calls: deadlines, named errors, cancellation. The results are futures that the test completes."""

import asyncio
from typing import Any, cast

import pytest
from ray.exceptions import (
    ActorDiedError,
    ObjectRefStreamEndOfStreamError,
    OutOfMemoryError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from cluster.actors.calls import next_result, result_of
from cluster.errors import DeadlineExceeded, ModelError, SamplerError, UngradableError

END = ObjectRefStreamEndOfStreamError()


class Died(UngradableError):
    pass


async def raised(error: BaseException) -> None:
    raise error


async def call(error: BaseException, failed: Any = SamplerError) -> Any:
    return await result_of(raised(error), "grading", death_error=Died, failure_error=failed, deadline_seconds=5)


def task_error(cause: Exception) -> BaseException:
    error: BaseException = RayTaskError("grade", "the remote traceback", cause).as_instanceof_cause()
    return error


@pytest.mark.parametrize(
    "error", [ActorDiedError(), OutOfMemoryError("the machine is full\nand more"), RuntimeEnvSetupError("no such file")]
)
def test_a_dead_or_never_started_process_gives_one_error_of_one_line(error: Exception) -> None:
    with pytest.raises(Died, match=r"^grading failed: the actor's process died \([^\n]+\)$"):
        asyncio.run(call(error))


def test_a_caravan_error_of_the_actor_is_raised_unchanged() -> None:
    with pytest.raises(ModelError, match=r"^no such model$"):
        asyncio.run(call(task_error(ModelError("no such model"))))


@pytest.mark.parametrize("cause", [MemoryError("no more\nof it"), TimeoutError("a socket's")])
def test_any_other_error_of_the_actor_becomes_failure_error_or_stays_a_ray_error(cause: Exception) -> None:
    with pytest.raises(SamplerError, match=rf"^grading failed: {type(cause).__name__}: [^\n]+$"):
        asyncio.run(call(task_error(cause)))
    with pytest.raises(RayTaskError, match="the remote traceback"):
        asyncio.run(call(task_error(cause), failed=None))


def test_a_late_answer_raises_an_error_with_the_deadline_and_its_key() -> None:
    async def scenario() -> None:
        never = asyncio.get_running_loop().create_future()
        await result_of(never, "starting", death_error=Died, deadline_seconds=0.01, deadline_key="rollout.patience")

    with pytest.raises(DeadlineExceeded, match=r"^starting did not answer within 0.01 s \(rollout.patience\)$"):
        asyncio.run(scenario())


def test_a_stream_yields_item_by_item_and_its_end_is_an_error() -> None:
    class Stream:
        """Items as Ray's streams have them; the end is an item that raises."""

        def __init__(self) -> None:
            self.items = [asyncio.sleep(0, "first"), asyncio.sleep(0, "second"), raised(END)]

        def _get_next_ref_n(self, num_refs: int) -> list[Any]:
            return self.items[:num_refs]

        def _consume_next_ref_n(self, num_refs: int) -> None:
            del self.items[:num_refs]

    async def scenario() -> None:
        async def next_item() -> Any:
            return await next_result(
                cast(Any, stream), "sampling", death_error=Died, deadline_seconds=0.05, deadline_key="patience"
            )

        stream = Stream()
        assert [await next_item(), await next_item()] == ["first", "second"]
        with pytest.raises(Died, match="sampling ended too early"):
            await next_item()
        stream.items[:0] = [asyncio.sleep(10)]
        with pytest.raises(DeadlineExceeded, match=r"^sampling did not answer within 0.05 s \(patience\)$"):
            await next_item()

    asyncio.run(scenario())


@pytest.mark.parametrize("num_iterations", range(6))
def test_a_task_cancelled_together_with_the_answer_stays_cancelled(num_iterations: int) -> None:
    async def scenario() -> None:
        result = asyncio.get_running_loop().create_future()

        async def wait_and_continue() -> None:
            await result_of(result, "closing", death_error=Died, deadline_seconds=5)
            await asyncio.sleep(1)

        task = asyncio.create_task(wait_and_continue())
        await asyncio.sleep(0.01)
        result.set_result(None)
        for _ in range(num_iterations):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), 0.5)

    asyncio.run(scenario())
