"""The job of ``caravan submit`` that checks the cluster before the run; it has the environment of the run's job.

Its lines begin with PREFIX, which separates them from Ray's lines in the job's log. Its exit code is 1 if the run is refused.
"""

import contextlib
import io
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.config.model_path import check_model_path, is_folder, model_path
from cluster.errors import CaravanError
from cluster.placement.gpu_facts import gpus_of_nodes
from cluster.placement.nodes import ask_nodes
from cluster.placement.plan.machines import machines_of
from cluster.placement.plan.model_shape import shape_of, trainable_adapter
from cluster.placement.plan.places import Plan, make_plan
from cluster.placement.plan.report import print_plan
from cluster.placement.ray_cluster import Cluster, ray_cluster
from cluster.placement.submit.node import inspect_node, missing_on_nodes
from cluster.placement.submit.persistent import require_persistent
from cluster.problems.dataset_sources import missing_file

PREFIX = "caravan| "
REFUSED = "refused: "


def main(arguments: Sequence[str]) -> int:
    """Check the cluster that this job runs on; returns 0 if the run may start, 1 if it would fail."""
    refusals: list[str] = []
    try:
        config = load_config(Path(arguments[0]), arguments[1:])
        with ray_cluster(lambda _line: None) as cluster:
            refusals = _check(config, cluster)
    except CaravanError as error:
        refusals = [str(error)]
    for line in refusals:
        print(f"{PREFIX}{REFUSED}{line}")
    return int(bool(refusals))


def _check(config: Config, cluster: Cluster) -> list[str]:
    """Print the plan, and return the reasons against the run."""
    refusals = []
    nodes = [node for node in cluster.nodes if node["Alive"]]
    machines = machines_of(nodes, gpus_of_nodes(nodes))
    data = config.data.dataset
    if missing_file(data):
        refusals.append(
            f"data.dataset={data}: the head of the cluster has no such file. Put it into the working directory, which is "
            "uploaded, or where the head can read it"
        )
    if is_folder(config.model.path) and not Path(config.model.path).is_dir():
        return [*refusals, _no_model(config)]
    try:
        check_model_path(config)
        plan = make_plan(config, shape_of(model_path(config)), machines)
        trainable_adapter(config)
    except CaravanError as error:
        return [*refusals, str(error)]
    _print_marked(plan)
    _require_writable(config.run.folder, cluster.logs.parents[1])
    facts = ask_nodes(nodes, inspect_node, plan.config)
    return [*refusals, *missing_on_nodes(plan.config, list(zip(machines, facts, strict=True)))]


def _no_model(config: Config) -> str:
    return (
        f"model.path={config.model.path}: the head of the cluster has no such folder. A folder of the submitting machine is "
        "not enough: put it where every machine can read it, or give a model of the Hugging Face hub"
    )


def _print_marked(plan: Plan) -> None:
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        print_plan(plan)
    # Estimates do not refuse a run; print_plan shows them as warnings.
    for line in page.getvalue().splitlines():
        print(f"{PREFIX}{line}")


def _require_writable(folder: Path, temporary: Path) -> None:
    """Raise CaravanError for a run.folder that the head, where the driver runs, cannot write or would not keep."""
    require_persistent(folder, temporary=temporary)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CaravanError(
            f"run.folder={folder} cannot be written on the head of the cluster: {error.strerror}; give another folder, or "
            "change its rights"
        ) from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
