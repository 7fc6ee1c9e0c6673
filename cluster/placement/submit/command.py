"""``caravan submit``: a run as a job of a Ray cluster, after ``caravan check`` as a job of its own."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.config.environment import FORWARDED_TO_JOBS
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import ConfigError, ResourcesError
from cluster.placement.submit.client import connect, describe_end, first_line, follow, print_log, ray_job
from cluster.placement.submit.persistent import require_persistent
from cluster.problems.run_data import CHANGED_DATA_FLAG

RUNTIME_ENVIRONMENT = "ray_job.yaml"
CHECK_SECONDS = 900.0
"""Time for the working directory to reach the nodes, and for the checks on them."""

SMOKE_SECONDS = 3600.0
"""The same with a smoke run, whose parts have deadlines of their own."""

CHECKED = (1, 2)
"""Exit codes of ``caravan check`` for a failed check and for a refused setting."""


def submit_and_report(
    config_file: Path, settings: Sequence[str], *, address: str | None, wait: bool, allow_changed_data: bool = False
) -> int:
    """Check, submit and, with ``wait``, follow; returns the exit code.

    Raises ConfigError for errors in the settings or the folder, ResourcesError for errors of the cluster.
    """
    view = View()
    client, arguments, environment = _connect(config_file, settings, address, view)
    check(client, arguments, environment)
    options = f" {CHANGED_DATA_FLAG}" if allow_changed_data else ""
    job = submit_job(client, f"caravan train -c {arguments}{options}", environment)
    return report_job(client, job, view, wait=wait)


def check_and_report(config_file: Path, settings: Sequence[str], *, address: str, smoke: bool) -> int:
    """Check the cluster of a job server; returns 0. Raises ResourcesError if it cannot hold the run, ConfigError as submit."""
    view = View()
    client, arguments, environment = _connect(config_file, settings, address, view)
    check(client, arguments, environment, smoke=smoke)
    return 0


def _connect(
    config_file: Path, settings: Sequence[str], address: str | None, view: View
) -> tuple[Any, str, dict[str, Any]]:
    """The client, and the arguments and the runtime environment of jobs; errors in the settings are reported first."""
    config = load_config(config_file, settings, log=view.log)
    require_persistent(config.run.folder)
    folder = Path.cwd()
    arguments = shlex.join([str(uploaded_path(config_file, folder)), *settings])
    environment = runtime_environment(folder, os.environ)
    client = connect(address)
    view.log(f"the cluster at {client.get_address()} answers")
    return client, arguments, environment


def uploaded_path(config_file: Path, folder: Path) -> Path:
    """The path of the configuration file in the job's working directory; raises ConfigError for a file outside of it."""
    path = config_file.resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ConfigError(
            f"-c {config_file}: only the content of {folder} is uploaded to the cluster; copy the file into it"
        )
    return path.relative_to(folder.resolve())


def runtime_environment(folder: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Ray's runtime environment of the job: ``ray_job.yaml``, the folder, and the environment variables that are settings.

    No other variables are sent, tokens in particular: Ray writes the variables of a job into its logs.
    """
    file = folder / RUNTIME_ENVIRONMENT
    if not file.is_file():
        raise ConfigError(
            f"there is no {RUNTIME_ENVIRONMENT} here: run this command in Caravan's folder, which is uploaded"
        )
    described: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    settings = {name: environment[name] for name in FORWARDED_TO_JOBS if name in environment}
    variables = {**described.get("env_vars", {}), **settings}
    return {**described, "env_vars": variables, "working_dir": str(folder)}


def submit_job(client: Any, entrypoint: str, environment: Mapping[str, Any], **resources: float) -> str:
    """Submit a command; returns the job's id. ``resources`` are those of the command itself. Raises ResourcesError."""
    try:
        return str(client.submit_job(entrypoint=entrypoint, runtime_env=dict(environment), **resources))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        if "No available agent" in str(error):
            raise ResourcesError(
                f"the cluster at {client.get_address()} has a head and no living node: see `ray status` there, and start "
                "Ray again"
            ) from None
        raise ResourcesError(
            f"the cluster refuses the job: {first_line(error)}. If the working directory is too large, add what "
            f"the job does not need to `excludes` in {RUNTIME_ENVIRONMENT}"
        ) from error


def report_job(client: Any, job: str, view: View, *, wait: bool) -> int:
    """Log how to follow and stop a job and, with ``wait``, follow it; returns the exit code."""
    for purpose, verb in (("log", "logs --follow"), ("to stop it, with a checkpoint", "stop")):
        view.log(f"{job}, {purpose}: {ray_job(verb, client, job)}")
    return follow(client, job, view) if wait else 0


def check(client: Any, arguments: str, environment: Mapping[str, Any], *, smoke: bool = False) -> None:
    """Run ``caravan check`` as a job and print its output; raises ResourcesError if the cluster cannot hold the run."""
    options = "" if smoke else " --no-smoke"
    job = submit_job(client, f"caravan check -c {arguments}{options}", environment)
    seconds = SMOKE_SECONDS if smoke else CHECK_SECONDS
    try:
        info = print_log(client, job, seconds)
    except KeyboardInterrupt:
        client.stop_job(job)
        raise
    except TimeoutError:
        client.stop_job(job)
        raise ResourcesError(
            f"the cluster's nodes did not answer the check within {seconds:g} s: is the cluster overloaded?"
        ) from None
    if info is None:
        raise ResourcesError(
            f"the connection to the check broke off: try again, or read its log with {ray_job('logs', client, job)}"
        )
    if info.status.value == "SUCCEEDED":
        return
    if info.status.value != "FAILED" or info.driver_exit_code is None:  # ended by Ray or by a user
        raise ResourcesError(f"the cluster's nodes could not be checked: {job} {describe_end(info)}")
    if info.driver_exit_code in CHECKED:
        raise ResourcesError("the cluster cannot hold this run: see what failed above")
    raise ResourcesError(
        f"Caravan does not start on the head of the cluster (status {info.driver_exit_code}, see above): its Ray has to be "
        "started with Caravan's .venv/bin first on PATH"
    )
