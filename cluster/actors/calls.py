"""Calls of Ray actors, with deadlines and Caravan's error types.

Arguments and results of the calls that are made for each completion are one ``bytes`` each (``packed``). Ray sends bytes as they
are; it serializes every other argument on its own, at several times the cost of a pickle of all.
"""

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from typing import Any

import ray
from ray.exceptions import ObjectRefStreamEndOfStreamError, RayError, RayTaskError

from cluster.errors import CaravanError, DeadlineExceeded


def packed(value: Any) -> bytes:
    """Serialize a value of Caravan's types for a call."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def unpacked(content: bytes) -> Any:
    """Restore a value that ``packed`` has serialized in a process of the same run."""
    return pickle.loads(content)


async def result_of(
    reference: Awaitable[Any],
    call: str,
    *,
    death_error: type[Exception],
    failure_error: Callable[[str], CaravanError] | None = None,
    deadline_seconds: float | None = None,
    deadline_key: str = "",
) -> Any:
    """Await the result of a remote call.

    Raises the CaravanError that the actor raised, and DeadlineExceeded.

    Args:
        reference: the object reference, or another awaitable of the result.
        call: name of the call for error messages.
        death_error: raised when the actor's process is gone or was never started.
        failure_error: raised for any other exception of the actor. None lets Ray's RayTaskError, with the remote traceback, pass.
        deadline_seconds: time limit of the call. None if the caller enforces a deadline.
        deadline_key: configuration key of the deadline, for the error message.
    """
    try:
        # Not asyncio.wait_for: in Python 3.11 it can lose a cancellation that arrives together with the result.
        async with asyncio.timeout(deadline_seconds):
            return await reference
    except RayTaskError as error:  # before TimeoutError: if the actor raised a TimeoutError, Ray's error is one too
        if isinstance(error.cause, CaravanError):
            raise error.cause from None
        if failure_error is None:
            raise
        raise failure_error(f"{call} failed: {_reason(error.cause)}") from error
    except RayError as error:
        raise death_error(f"{call} failed: the actor's process died ({_first_line(error)})") from error
    except TimeoutError as error:
        key = f" ({deadline_key})" if deadline_key else ""
        raise DeadlineExceeded(f"{call} did not answer within {deadline_seconds:g} s{key}") from error


async def next_result(
    stream: ray.ObjectRefGenerator,
    call: str,
    *,
    death_error: type[CaravanError],
    deadline_seconds: float,
    deadline_key: str,
) -> Any:
    """Await the next item of a streaming call.

    Raises the same errors as ``result_of``, and ``death_error`` if the stream has no further item.
    """
    try:
        item = await result_of(
            _next_reference(stream),
            call,
            death_error=death_error,
            failure_error=death_error,
            deadline_seconds=deadline_seconds,
            deadline_key=deadline_key,
        )
    except death_error as error:
        if isinstance(error.__cause__, ObjectRefStreamEndOfStreamError):
            raise death_error(f"{call} ended too early: its stream has no further item") from None
        raise
    stream._consume_next_ref_n(1)
    return item


def _next_reference(stream: ray.ObjectRefGenerator) -> Awaitable[Any]:
    """Return the reference of a stream's next item, which stays the next one.

    ``anext(stream)`` would fetch the item to wait for it, and awaiting the reference that it returns would fetch it again.
    """
    reference: Awaitable[Any] = stream._get_next_ref_n(1)[0]
    return reference


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {_first_line(error)}" if text else type(error).__name__
