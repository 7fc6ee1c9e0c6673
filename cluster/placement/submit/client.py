"""The way to a cluster's job server: reaching it, waiting for a job, following its log."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from cluster.console import View
from cluster.errors import ResourcesError

Answer = TypeVar("Answer")

INTERRUPTED = 130
ENDED_SECONDS = 30.0  # from the end of a job's log to that of the job
POLL_SECONDS = 0.5
CONNECT_SECONDS = 25.0


def connect(address: str | None) -> Any:
    """A ``JobSubmissionClient`` of ``address``, of RAY_API_SERVER_ADDRESS or RAY_ADDRESS, or of the Ray on this machine.

    Raises ResourcesError where nobody answers there, or a token is asked for.
    """
    _use_token()
    if address is not None:
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray would let the environment win
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for talkative in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or "this machine"
    try:
        return within(CONNECT_SECONDS, lambda: JobSubmissionClient(address))
    except AuthenticationError:
        raise ResourcesError(
            f"the cluster at {where} does not let us in without its token: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file "
            "that holds it (on the cluster's head it is in ~/.ray/auth_token)"
        ) from None
    except (ConnectionError, RuntimeError, ValueError, TypeError, KeyError, OSError) as error:  # some by what is no Ray
        raise ResourcesError(
            f"no job server answers at {where}: {first_line(error)}. Start Ray there (`ray start --head`) and give the "
            "address of its dashboard, --address http://HEAD:8265; it listens on loopback, so from elsewhere open a tunnel: "
            "ssh -L 8265:localhost:8265 HEAD"
        ) from None


def within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """What a call returns or raises; TimeoutError where it takes longer. Ray's client would wait for a silent server for ever."""
    answer: Future[Answer] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it belongs to who waits
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        raise TimeoutError(f"it does not answer within {seconds:g} s") from None


def first_line(error: Exception) -> str:
    """What an error says, without the rest of the page that Ray likes to add."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _use_token() -> None:
    """Send a token where one is at hand, as ``ray start`` and ``ray.init`` do; Ray's job client does not by itself."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if os.environ.get("RAY_AUTH_TOKEN") or file.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def ray_job(verb: str, client: Any, job: str) -> str:
    """The command of Ray's own that does something to a job."""
    token = "RAY_AUTH_MODE=token " if os.environ.get("RAY_AUTH_MODE") == "token" else ""
    return f"{token}ray job {verb} {job} --address {client.get_address()}"


def follow(client: Any, job: str, view: View) -> int:
    """Print a job's log until it ends; returns the exit code: the job's own, 130 where it was stopped or following was."""
    try:
        asyncio.run(_print_log(client, job))
        info = ended(client, job, ENDED_SECONDS)
    except KeyboardInterrupt:
        view.log(
            f"the job goes on. To follow it: {ray_job('logs --follow', client, job)}; to stop it, with a checkpoint: "
            f"{ray_job('stop', client, job)}"
        )
        return INTERRUPTED
    if info is None:
        raise ResourcesError(
            f"the log of {job} broke off, and the job goes on: follow it with {ray_job('logs --follow', client, job)}"
        )
    view.log(f"{job}: {ended_by(info) if info.driver_exit_code is None else str(info.status.value).lower()}")
    return exit_code(str(info.status.value), info.driver_exit_code)


def ended_by(info: Any) -> str:
    """How a job ended that Ray ended, or never began, and what Ray says of the reason."""
    status = str(info.status.value).lower()
    return f"{status} ({' '.join(info.message.split())})" if info.message else status


def exit_code(status: str, of_the_driver: int | None) -> int:
    """That of ``caravan train`` where it came to its end; 130 where somebody stopped the job."""
    if status == "SUCCEEDED":
        return 0
    return INTERRUPTED if status == "STOPPED" else of_the_driver or 1


async def _print_log(client: Any, job: str) -> None:
    from aiohttp import ClientError

    try:
        async for text in client.tail_job_logs(job):
            print(text, end="", flush=True)
    except (RuntimeError, OSError, ClientError):  # the connection broke off; whether the job did, the caller asks
        return


def ended(client: Any, job: str, seconds: float) -> Any:
    """What the server tells of a job once it has ended; None where it has not within ``seconds``.

    Raises ResourcesError where the server answers no more.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            info = client.get_job_info(job)
        except (RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
            raise ResourcesError(
                f"the job server at {client.get_address()} no longer answers ({first_line(error)}). Where the cluster is still "
                f"there, {job} goes on: {ray_job('status', client, job)}. Where it is not, the same command goes on from the "
                "newest checkpoint, on the next cluster"
            ) from None
        if info.status.is_terminal():
            return info
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL_SECONDS)
