"""The check that a job's results outlive it: Ray deletes the working directory of a job."""

import os
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import ConfigError

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it only for the driver of a submitted job


def is_job(environment: Mapping[str, str] = os.environ) -> bool:
    """Return True if this process is the driver of a submitted job."""
    return JOB_VARIABLE in environment


def require_persistent(folder: Path, *, name: str = "run.folder=", temporary: Path | None = None) -> None:
    """Raise ConfigError for a folder of results that Ray would delete: in the job's working directory, or in ``temporary``.

    ``name`` is the setting that names the folder, ``temporary`` is Ray's own folder, if it is known.
    """
    setting = f"{name}{folder}"
    if not folder.is_absolute():
        raise ConfigError(
            f"{setting} is in the job's working directory, which Ray deletes with the job: give an absolute path, or one "
            "below ~"
        )
    if temporary is not None and folder.resolve().is_relative_to(temporary.resolve()):
        raise ConfigError(f"{setting} is in {temporary}, which Ray deletes: give a folder that outlives the job")
