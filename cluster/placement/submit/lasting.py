"""A job's results have to outlive it: Ray throws the folder that a job works in away."""

import os
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import ConfigError

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the driver of a submitted job, and for nobody else


def is_job(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the driver of a submitted job; elsewhere every run folder lasts."""
    return JOB_VARIABLE in environment


def require_lasting(folder: Path, *, temporary: Path | None = None) -> None:
    """Raise ConfigError where ``run.folder`` would go with a job: relative to its working directory, or in ``temporary``.

    ``temporary`` is Ray's own folder, where it is known.
    """
    what = f"run.folder={folder}"
    if not folder.is_absolute():
        raise ConfigError(
            f"{what} lies in the job's working directory, which Ray removes with the job: give an absolute path, or one "
            "below ~"
        )
    if temporary is not None and folder.resolve().is_relative_to(temporary.resolve()):
        raise ConfigError(f"{what} lies in {temporary}, which Ray removes: give a place that outlives the job")
