"""``caravan scale``: requests for another number of samplers or graders of a running run.

A request is a file in the run folder; the driver polls for it and answers with another file. No port is opened: every user
with write access to the folder may scale the run.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from cluster.console import View
from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.run_folder import RunFolder
from cluster.protocols import GraderPool, SamplerPool
from cluster.types import ProbeGap, ProbePrompt
from grader.settings import MAX_GRADERS
from rollout.settings import MAX_SAMPLERS

MAXIMUMS = {"samplers": MAX_SAMPLERS, "graders": MAX_GRADERS}
"""The largest number of replicas of each pool."""

KEYS = tuple(f"{bound}{pool}" for pool in MAXIMUMS for bound in ("", "min_", "max_"))
POLL_SECONDS = 1.0
ANSWER_SECONDS = 30.0
"""Time for the driver to answer, on a machine that may be busy."""


class ScalableGraderPool(GraderPool, Protocol):
    """A grader pool whose size can be changed; the real one is grader.pool."""

    async def scale(
        self, number: int | None = None, *, min_graders: int | None = None, max_graders: int | None = None
    ) -> str:
        """Set the number of graders or its bounds; returns a log line. Raises ConfigError for contradictions."""
        ...


class ScalableSamplerPool(SamplerPool, Protocol):
    """A sampler pool whose size can be changed; the real one is rollout.pool."""

    async def base_gaps(self, probes: Sequence[ProbePrompt]) -> tuple[ProbeGap, ...]:
        """Compare the scores of the base model with the learner's; returns the gap of each probe prompt on the worst sampler.

        Raises ModelError if they are above what a base model may have.
        """
        ...

    def set_tolerance(self, nats: float) -> None:
        """Set the largest gap, in nats per token, with which later policies are verified."""
        ...

    async def scale(
        self, number: int | None = None, *, min_samplers: int | None = None, max_samplers: int | None = None
    ) -> str:
        """Set the number of samplers or its bounds; returns a log line. Raises ConfigError for contradictions."""
        ...


def parse_numbers(settings: Sequence[str]) -> dict[str, int]:
    """Parse ``graders=64 max_graders=128``; raises ConfigError, which names the wrong argument."""
    numbers: dict[str, int] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key in numbers:
            raise ConfigError(f"{key} is given twice")
        numbers[key] = int(text) if text.isdecimal() else 0
        _check(key, numbers[key], setting)
    return numbers


def _check(key: str, number: object, shown: str) -> None:
    most = MAXIMUMS.get(_pool_of(key), MAX_GRADERS)
    if key not in KEYS or type(number) is not int or not 1 <= number <= most:
        raise ConfigError(f"{shown!r} is not KEY=N with one of {', '.join(KEYS)} and a number from 1 to {most}")


def _pool_of(key: str) -> str:
    return key.rpartition("_")[2]


def scale_and_report(run: Path, settings: Sequence[str]) -> int:
    """Send a request to a run and print its answer; returns the exit code.

    Raises ConfigError for impossible numbers, RunFolderError for a run that is not running or does not answer.
    """
    numbers = parse_numbers(settings)
    folder = RunFolder(run)
    if not folder.is_running():
        raise RunFolderError(
            f"{run} is not running: nothing can be scaled. To resume it with another number: caravan train --resume "
            f"{folder.argument} num_graders=N (or num_samplers=N)"
        )
    with _sent_request(folder, numbers) as answer:
        deadline = time.monotonic() + ANSWER_SECONDS
        while not answer.exists():
            if time.monotonic() > deadline:
                raise RunFolderError(
                    f"{run} has not answered within {ANSWER_SECONDS:g} s: a run can be scaled while it trains, after all "
                    "its parts have started; try again then"
                )
            time.sleep(0.1)
        reply = json.loads(answer.read_text(encoding="utf-8"))
    for line in reply["done"]:
        print(line)
    if reply["refused"]:
        raise ConfigError("; ".join(reply["refused"]))
    return 0


@contextmanager
def _sent_request(folder: RunFolder, numbers: Mapping[str, int]) -> Iterator[Path]:
    """Write a request and yield the path of its answer; both files are deleted at the end of the block."""
    request = folder.scaling / f"{time.time_ns()}-{os.getpid()}.request"
    answer = request.with_suffix(".answer")
    try:
        with folder.explain_errors(folder.scaling):
            folder.scaling.mkdir(exist_ok=True)
        folder.write(request, json.dumps(numbers))
        yield answer
    finally:
        request.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)


@asynccontextmanager
async def answering_scale_requests(
    folder: RunFolder, samplers: ScalableSamplerPool, graders: ScalableGraderPool, view: View
) -> AsyncIterator[None]:
    """Answer scale requests during the block. Requests from before it are deleted."""
    for file in folder.scaling.glob("*"):
        if file.is_file():
            file.unlink(missing_ok=True)
    answering = asyncio.create_task(_answer_requests(folder, samplers, graders, view))
    try:
        yield
    finally:
        answering.cancel()


async def _answer_requests(
    folder: RunFolder, samplers: ScalableSamplerPool, graders: ScalableGraderPool, view: View
) -> None:
    while True:
        for request in sorted(path for path in folder.scaling.glob("*.request") if path.is_file()):
            answer = await _answer(_take(request), samplers, graders)
            try:
                folder.write(request.with_suffix(".answer"), json.dumps(answer))
            except RunFolderError as error:  # no reason to end the run
                view.warn(str(error))
        await asyncio.sleep(POLL_SECONDS)


def _take(request: Path) -> str:
    """Read and delete a request; returns an empty text if it was withdrawn."""
    try:
        content = request.read_bytes()
        request.unlink(missing_ok=True)
        return content.decode()
    except (OSError, ValueError):
        return ""


async def _answer(request: str, samplers: ScalableSamplerPool, graders: ScalableGraderPool) -> dict[str, list[str]]:
    """Scale the pools; returns a line for each pool, under "done" or "refused"."""
    try:
        numbers: dict[str, Any] = json.loads(request)
        for key, number in numbers.items():
            _check(key, number, f"{key}={number}")
    except ConfigError as error:
        return {"done": [], "refused": [str(error)]}
    except (
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:  # not written by `caravan scale`, or withdrawn
        return {"done": [], "refused": [f"the request cannot be read: {error}"]}
    done: list[str] = []
    refused: list[str] = []
    for pool, scale in (("samplers", samplers.scale), ("graders", graders.scale)):
        of_pool = {key: number for key, number in numbers.items() if _pool_of(key) == pool}
        number = of_pool.pop(pool, None)
        if number is None and not of_pool:
            continue
        try:
            done.append(await scale(number, **of_pool))
        except ConfigError as error:
            refused.append(str(error))
    return {"done": done, "refused": refused}
