"""Calls of Ray actors, with a deadline and a named error for each way to fail."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.errors import CaravanError, DeadlineExceeded


async def answer(
    reference: Awaitable[Any],
    call: str,
    *,
    died: type[Exception],
    failed: type[CaravanError] | None = None,
    deadline_seconds: float | None = None,
    deadline_key: str = "",
) -> Any:
    """Await the result of a remote call.

    Raises the CaravanError that the actor raised, and DeadlineExceeded.

    Args:
        reference: the object reference, or another awaitable of the result.
        call: name of the call for error messages.
        died: raised when the actor's process is gone or was never started.
        failed: raised for any other exception of the actor; None: Ray's RayTaskError, with the remote traceback.
        deadline_seconds: None: the caller enforces a deadline.
        deadline_key: configuration key of the deadline, for the error message.
    """
    try:
        # Not asyncio.wait_for: in Python 3.11 it can lose a cancellation that arrives together with the result.
        async with asyncio.timeout(deadline_seconds):
            return await reference
    except RayTaskError as error:  # first: it can be a TimeoutError too, of the actor's code
        if isinstance(error.cause, CaravanError):
            raise error.cause from None
        if failed is None:
            raise
        raise failed(f"{call} failed: {_reason(error.cause)}") from error
    except RayError as error:
        raise died(f"{call} failed: its process died ({_first_line(error)})") from error
    except TimeoutError as error:
        key = f" ({deadline_key})" if deadline_key else ""
        raise DeadlineExceeded(f"{call} did not answer within {deadline_seconds:g} s{key}") from error


async def next_answer(
    stream: ray.ObjectRefGenerator,
    call: str,
    *,
    died: type[CaravanError],
    deadline_seconds: float,
    deadline_key: str,
) -> Any:
    """Await the next item of a streaming call; raises what ``answer`` raises, and ``died`` when the stream is over."""
    try:
        async with asyncio.timeout(deadline_seconds):
            reference = await anext(stream)
    except TimeoutError as error:
        raise DeadlineExceeded(f"{call} did not answer within {deadline_seconds:g} s ({deadline_key})") from error
    except StopAsyncIteration:
        raise died(f"{call} ended too early") from None
    return await answer(
        reference, call, died=died, failed=died, deadline_seconds=deadline_seconds, deadline_key=deadline_key
    )


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {_first_line(error)}" if text else type(error).__name__
