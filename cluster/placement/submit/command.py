"""``caravan submit``: a run as a job of a Ray cluster, after a check that the cluster can hold it."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.config.environment import TRAVELLING
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import ConfigError, ResourcesError
from cluster.placement.submit.checks import PREFIX, REFUSED
from cluster.placement.submit.client import connect, describe_end, ended, first_line, follow, ray_job
from cluster.placement.submit.persistent import require_persistent
from cluster.problems.run_data import CHANGED_DATA_FLAG

RUNTIME_ENVIRONMENT = "ray_job.yaml"
CHECK_SECONDS = 900.0
"""Time for the working directory to reach the nodes, and for the checks on them."""


def submit_and_report(
    config_file: Path, settings: Sequence[str], *, address: str | None, wait: bool, allow_changed_data: bool = False
) -> int:
    """Check, submit and, with ``wait``, follow; returns the exit code.

    Raises ConfigError for errors in the settings or the folder, ResourcesError for errors of the cluster.
    """
    view = View()
    config = load_config(config_file, settings, log=view.log)  # its errors are reported before anything is uploaded
    require_persistent(config.run.folder)
    folder = Path.cwd()
    arguments = shlex.join([str(uploaded_path(config_file, folder)), *settings])
    environment = runtime_environment(folder, os.environ)
    client = connect(address)
    view.log(f"the cluster at {client.get_address()} answers")
    with view.timed("checking its nodes"):
        check(client, arguments, environment, view)
    options = f" {CHANGED_DATA_FLAG}" if allow_changed_data else ""
    job = _submit(client, f"caravan train -c {arguments}{options}", environment)
    for purpose, verb in (("log", "logs --follow"), ("to stop it, with a checkpoint", "stop")):
        view.log(f"{job}, {purpose}: {ray_job(verb, client, job)}")
    return follow(client, job, view) if wait else 0


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
            f"there is no {RUNTIME_ENVIRONMENT} here: run `caravan submit` in Caravan's folder, which is uploaded"
        )
    described: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    settings = {name: environment[name] for name in TRAVELLING if name in environment}
    variables = {**described.get("env_vars", {}), **settings}
    return {**described, "env_vars": variables, "working_dir": str(folder)}


def _submit(client: Any, entrypoint: str, environment: Mapping[str, Any]) -> str:
    try:
        return str(client.submit_job(entrypoint=entrypoint, runtime_env=dict(environment)))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        if "No available agent" in str(error):
            raise ResourcesError(
                f"the cluster at {client.get_address()} has a head and no living node: see `ray status` there, and start "
                "Ray again"
            ) from None
        raise ResourcesError(
            f"the cluster does not take the job: {first_line(error)}. If the working directory is too large, add what "
            f"the job does not need to `excludes` in {RUNTIME_ENVIRONMENT}"
        ) from error


def check(client: Any, arguments: str, environment: Mapping[str, Any], view: View) -> None:
    """Print the cluster's plan of the run; raises ResourcesError if the cluster refuses the run."""
    job = _submit(client, f"python -m cluster.placement.submit.checks {arguments}", environment)
    try:
        info = ended(client, job, CHECK_SECONDS)
    except KeyboardInterrupt:
        client.stop_job(job)
        raise
    if info is None:
        client.stop_job(job)
        raise ResourcesError(
            f"the cluster's nodes did not answer the check within {CHECK_SECONDS:g} s: is the cluster overloaded?"
        )
    log = client.get_job_logs(job)
    lines = [line.removeprefix(PREFIX) for line in log.splitlines() if line.startswith(PREFIX)]
    refusals = [line.removeprefix(REFUSED) for line in lines if line.startswith(REFUSED)]
    for line in lines:
        if not line.startswith(REFUSED):
            print(line)
    if refusals:
        raise ResourcesError("the cluster cannot hold this run\n" + "\n".join(f"- {line}" for line in refusals))
    if info.status.value == "SUCCEEDED":
        return
    if log.strip():
        view.log(log.strip())
    if info.status.value != "FAILED" or info.driver_exit_code is None:  # ended by Ray or by a user
        raise ResourcesError(f"the cluster's nodes could not be checked: {job} {describe_end(info)}")
    raise ResourcesError(
        f"Caravan does not start on the head of the cluster (status {info.driver_exit_code}, see above): its Ray has to be "
        "started with Caravan's .venv/bin first on PATH"
    )
