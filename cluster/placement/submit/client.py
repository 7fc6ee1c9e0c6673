"""The client of a cluster's job server: connecting, waiting for a job, following its log."""

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

from cluster.console import View
from cluster.errors import ConfigError, ResourcesError
from cluster.placement.deadline import within

INTERRUPTED = 130
ENDED_SECONDS = 30.0  # from the end of a job's log to the end of the job
POLL_SECONDS = 0.5
CONNECT_SECONDS = 25.0


def connect(address: str | None) -> Any:
    """A ``JobSubmissionClient`` of ``address``, of RAY_API_SERVER_ADDRESS or RAY_ADDRESS, or of the Ray on this machine.

    Raises ConfigError for an address that is no URL, ResourcesError if no server answers, or it requires another token.
    """
    _use_token()
    if address is not None:
        if "://" not in address:  # Ray would take it for another port, and wait
            raise ConfigError(f"--address {address!r}: give the address of the cluster's dashboard, http://HEAD:8265")
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers the environment variable
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for logger in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    where = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or "this machine"
    try:
        return within(CONNECT_SECONDS, lambda: JobSubmissionClient(address))
    except AuthenticationError:
        raise ResourcesError(
            f"the cluster at {where} requires its token: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file "
            "that holds it (on the cluster's head it is in ~/.ray/auth_token)"
        ) from None
    except (
        ConnectionError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        OSError,
    ) as error:  # or no Ray
        raise ResourcesError(
            f"no job server answers at {where}: {first_line(error)}. Start Ray there (`ray start --head`) and give the "
            "address of its dashboard, --address http://HEAD:8265; it listens on loopback, so from elsewhere open a tunnel: "
            "ssh -L 8265:localhost:8265 HEAD"
        ) from None


def first_line(error: Exception) -> str:
    """The first line of an error's text; Ray adds a page to it."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _use_token() -> None:
    """Send the token, if there is one, as ``ray start`` and ``ray.init`` do; Ray's job client does not by itself."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if os.environ.get("RAY_AUTH_TOKEN") or file.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def ray_job(verb: str, client: Any, job: str) -> str:
    """The command ``ray job VERB`` for a job."""
    token = "RAY_AUTH_MODE=token " if os.environ.get("RAY_AUTH_MODE") == "token" else ""
    return f"{token}ray job {verb} {job} --address {client.get_address()}"


def follow(client: Any, job: str, view: View) -> int:
    """Print a job's log until it ends; returns the job's exit code, or 130 if the job was stopped or Ctrl-C was pressed."""
    try:
        info = print_log(client, job)
    except KeyboardInterrupt:
        view.log(
            f"the job continues. To follow it: {ray_job('logs --follow', client, job)}; to stop it, with a checkpoint: "
            f"{ray_job('stop', client, job)}"
        )
        return INTERRUPTED
    if info is None:
        raise ResourcesError(
            f"the connection to the log of {job} broke off, and the job continues: follow it with "
            f"{ray_job('logs --follow', client, job)}"
        )
    view.log(f"{job}: {describe_end(info) if info.driver_exit_code is None else str(info.status.value).lower()}")
    return exit_code(str(info.status.value), info.driver_exit_code)


def print_log(client: Any, job: str, seconds: float | None = None) -> Any:
    """Print a job's log until it ends, and return the job's status; None if the connection broke off and the job continues.

    Raises TimeoutError after ``seconds``.
    """
    asyncio.run(asyncio.wait_for(_print_log(client, job), seconds))
    return ended(client, job, ENDED_SECONDS)


def describe_end(info: Any) -> str:
    """The status of a job that Ray ended or did not start, with Ray's reason."""
    status = str(info.status.value).lower()
    return f"{status} ({' '.join(info.message.split())})" if info.message else status


def exit_code(status: str, driver_exit_code: int | None) -> int:
    """The exit code of ``caravan train``; 130 for a job that was stopped."""
    if status == "SUCCEEDED":
        return 0
    return INTERRUPTED if status == "STOPPED" else driver_exit_code or 1


async def _print_log(client: Any, job: str) -> None:
    from aiohttp import ClientError

    try:
        async for text in client.tail_job_logs(job):
            print(text, end="", flush=True)
    except (RuntimeError, OSError, ClientError):  # the connection broke off; the caller asks for the job's status
        return


def ended(client: Any, job: str, seconds: float) -> Any:
    """Wait for a job to end; returns its status, None if it has not ended within ``seconds``.

    Raises ResourcesError if the server no longer answers.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            info = client.get_job_info(job)
        except (RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
            raise ResourcesError(
                f"the job server at {client.get_address()} no longer answers ({first_line(error)}). If the cluster is still "
                f"there, {job} continues: {ray_job('status', client, job)}. If it is gone, the same command resumes from the "
                "newest checkpoint, on the next cluster"
            ) from None
        if info.status.is_terminal():
            return info
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL_SECONDS)
