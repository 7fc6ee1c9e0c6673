"""Answers from sampler actors: each has a deadline, and each failure has one of Caravan's names."""

import asyncio
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.types import CaravanError, Completion, DeadlineExceeded, SamplerError


async def answer(reference: ray.ObjectRef, call: str, deadline_seconds: float) -> Any:
    """Return what a remote call returns.

    Raises the CaravanError that the actor raised, SamplerError where the actor is gone, DeadlineExceeded.
    """
    try:
        async with asyncio.timeout(deadline_seconds):
            return await reference
    except TimeoutError as error:
        raise DeadlineExceeded(f"{call} did not answer within {deadline_seconds:g} s") from error
    except RayTaskError as error:
        if isinstance(error.cause, CaravanError):
            raise error.cause from None
        raise SamplerError(f"{call} failed: {error.cause!r}") from error
    except RayError as error:
        raise SamplerError(f"{call} failed: its process is gone ({_first_line(error)})") from error


async def next_answer(stream: ray.ObjectRefGenerator, call: str, deadline_seconds: float) -> tuple[Completion, ...]:
    """Return the completions that a stream hands over next.

    Raises what ``answer`` raises, SamplerError where the stream ends too soon.
    """
    try:
        async with asyncio.timeout(deadline_seconds):
            reference = await anext(stream)
    except TimeoutError as error:
        raise DeadlineExceeded(
            f"{call} did not answer within {deadline_seconds:g} s (rollout.request_deadline_seconds)"
        ) from error
    except StopAsyncIteration:
        raise SamplerError(f"{call} ended before the group was complete") from None
    completions: tuple[Completion, ...] = await answer(reference, call, deadline_seconds)
    return completions


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
