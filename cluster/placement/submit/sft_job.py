"""``caravan sft --address``: supervised fine-tuning as a job, on a node that has a GPU if the cluster has one."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.config.config import Config
from cluster.console import View
from cluster.errors import ResourcesError
from cluster.placement.submit.client import connect, first_line
from cluster.placement.submit.command import report_job, runtime_environment, submit_job, uploaded_path
from cluster.placement.submit.persistent import require_persistent


def submit_sft(
    config: Config,
    *,
    config_file: Path | None,
    settings: Sequence[str],
    options: Sequence[str],
    out: Path,
    address: str,
    wait: bool,
) -> int:
    """Submit ``caravan sft`` with ``options`` to the job server at ``address`` and, with ``wait``, follow the job.

    The job reserves ``learner.cpus`` and ``learner.gpus``; if the latter is not set, a GPU if a node has one. Returns the exit
    code. Raises ConfigError for a folder that does not outlive the job, ResourcesError for a cluster without room for the job.
    """
    view = View()
    require_persistent(out, name="--out ")
    folder = Path.cwd()
    file = ["-c", str(uploaded_path(config_file, folder))] if config_file else []
    environment = runtime_environment(folder, os.environ)
    client = connect(address)
    view.log(f"the cluster at {client.get_address()} answers")
    cpus, gpus = reserved(config, node_resources(client))
    gpu_override = [] if gpus == config.learner.gpus else [f"learner.gpus={gpus:g}"]
    command = ["caravan", "sft", *file, "--out", str(out), *options, *settings, *gpu_override]
    job = submit_job(client, shlex.join(command), environment, entrypoint_num_cpus=cpus, entrypoint_num_gpus=gpus)
    view.log(f"{job} starts when a node has {cpus:g} CPU and {gpus:g} GPU free")
    return report_job(client, job, view, wait=wait)


def reserved(config: Config, nodes: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """The cores and the GPU (or fraction of one) that the job reserves; raises ResourcesError if no node has them.

    Ray would let such a job wait.
    """
    learner = config.learner
    largest = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    gpus = learner.gpus if "gpus" in learner.model_fields_set else min(1.0, largest)
    if not any(node.get("CPU", 0.0) >= learner.cpus and node.get("GPU", 0.0) >= gpus for node in nodes):
        has = "; ".join(f"{node.get('CPU', 0.0):g} CPU, {node.get('GPU', 0.0):g} GPU" for node in nodes) or "none"
        raise ResourcesError(
            f"no node of the cluster has the learner.cpus={learner.cpus:g} and learner.gpus={gpus:g} that the fine-tuning "
            f"reserves (nodes: {has}): lower them, or add a node"
        )
    return learner.cpus, gpus


def node_resources(client: Any) -> list[Mapping[str, float]]:
    """The resources of each living node, by Ray's names; raises ResourcesError if the cluster does not give them."""
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        nodes = list_nodes(address=client.get_address(), filters=[("state", "=", "ALIVE")])
    except (RayStateApiException, RuntimeError, ValueError, OSError) as error:
        raise ResourcesError(
            f"the cluster at {client.get_address()} does not list its nodes: {first_line(error)}"
        ) from None
    return [node.resources_total for node in nodes]
