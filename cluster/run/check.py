"""``caravan check``: the needs of a run compared with each machine of the cluster, then a smoke run."""

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.config.config import Config
from cluster.config.initial_adapter import with_initial_adapter
from cluster.config.model_path import check_model_path, model_path
from cluster.console import View, count
from cluster.errors import CaravanError, ModelError
from cluster.placement.check.checks import Check, Level, disk, driver_check, node_checks, worst
from cluster.placement.check.node_facts import NodeFacts, existing, free_bytes, inspect_node, installed_versions
from cluster.placement.check.table import print_checks
from cluster.placement.gpu_facts import gpus_of_nodes
from cluster.placement.nodes import ask_nodes
from cluster.placement.plan.machines import Machine, machines_of, this_machine, totals
from cluster.placement.plan.model_shape import BYTES, GIB, ModelShape, shape_of, trained_size
from cluster.placement.plan.places import Plan, make_plan
from cluster.placement.plan.report import print_plan
from cluster.placement.ray_address import find_cluster
from cluster.placement.ray_cluster import place, ray_cluster
from cluster.placement.submit.persistent import is_job, require_persistent
from cluster.problems.dataset_sources import unavailable_reason
from cluster.run.interruption import INTERRUPTED
from cluster.run.preflight import check_settings
from cluster.run.smoke import smoke_check

RUN = "run"
"""Place of the checks that are not about one machine."""

Inspect = Callable[[Config], Sequence[NodeFacts]]


def check_and_report(config: Config, *, smoke: bool) -> int:
    """Check the cluster of RAY_ADDRESS or ``ray start``, else this machine, and print the results.

    With ``smoke``, and if nothing fails, trains one step on one group. Returns 1 if a check fails, 130 after Ctrl-C, else 0.
    """
    view = View()
    checks = _check_machines(config, view)
    print_checks(checks, "Checks")
    if smoke and worst(checks) is Level.FAIL:
        view.log("the smoke run is skipped, because a check failed")
    elif smoke:
        view.log("smoke run: one step, in a folder that is deleted afterwards")
        tried = smoke_check(config)
        if tried is None:
            return INTERRUPTED
        checks = [tried]
        print_checks(checks, "Smoke run")
    return int(worst(checks) is Level.FAIL)


def _check_machines(config: Config, view: View) -> list[Check]:
    if find_cluster(view.log) is None:
        with view.timed("checking this machine"):
            return run_checks(config, [this_machine()], lambda placed: [inspect_node(placed)])
    with ray_cluster(view.log) as cluster:
        nodes = [node for node in cluster.nodes if node["Alive"]]
        with view.timed(f"checking {count(len(nodes), 'machine')}"):
            machines = machines_of(nodes, gpus_of_nodes(nodes))
            ray_folder = cluster.logs.parents[1] if is_job() else None
            return run_checks(config, machines, lambda placed: ask_nodes(nodes, inspect_node, placed), ray_folder)


def run_checks(
    config: Config, machines: Sequence[Machine], inspect: Inspect, ray_folder: Path | None = None
) -> list[Check]:
    """All checks but the smoke run; prints the plan. ``inspect`` returns the facts of each machine.

    ``ray_folder`` is where Ray keeps the files of a job, which it deletes.
    """
    config, refusals = _with_initial_adapter(config)
    shape, checks = _shape(config)
    checks = [_settings(config), *refusals, *checks, _data(config), _run_folder(config, ray_folder)]
    placed, planned = _plan(config, shape, machines)
    checks += planned
    versions, _ = installed_versions()
    download_gib = shape.num_parameters * BYTES["bfloat16"] / GIB if shape else 0.0
    wants_gpus = bool(placed.rollout.gpus_per_sampler or placed.learner.gpus)
    without_gpus = not any(machine.num_gpus for machine in machines)
    for machine, facts in zip(machines, inspect(placed), strict=True):
        if wants_gpus and without_gpus:  # Ray finds no GPU where its driver does not answer
            checks.append(driver_check(f"{machine.name} ({facts.host})", facts))
        checks += node_checks(placed, machine, facts, versions=versions, download_gib=download_gib)
    return checks


def _settings(config: Config) -> Check:
    wanted = "a run that can start"
    try:
        check_settings(config)
    except ModelError:  # about the paths of model and adapter, which are checked last; they have checks of their own
        pass
    except CaravanError as error:
        return _refused("settings", wanted, error)
    return Check(place=RUN, name="settings", found="accepted", wanted=wanted)


def _with_initial_adapter(config: Config) -> tuple[Config, list[Check]]:
    try:
        return with_initial_adapter(config), []
    except CaravanError as error:
        return config, [_refused("learner.adapter", "an adapter that can be trained further", error)]


def _shape(config: Config) -> tuple[ModelShape | None, list[Check]]:
    """The shape of the model, and the check that it, or an adapter on it, can be trained."""
    wanted = "a model that can be trained"
    try:
        check_model_path(config)
        shape = shape_of(model_path(config))
        size = trained_size(config)
    except CaravanError as error:
        return None, [_refused("model", wanted, error)]
    return shape, [Check(place=RUN, name="model", found=str(size), wanted=wanted)]


def _data(config: Config) -> Check:
    wanted = "readable by the driver"
    reason = unavailable_reason(config.data.dataset)
    if reason is None:
        return Check(place=RUN, name="data", found=config.data.dataset, wanted=wanted)
    return _failed("data", "cannot be read", wanted, f"data.dataset={config.data.dataset}: {reason}")


def _run_folder(config: Config, ray_folder: Path | None) -> Check:
    folder, name = config.run.folder, "run folder"
    try:
        if ray_folder is not None:
            require_persistent(folder, temporary=ray_folder)
        with contextlib.closing(tempfile.TemporaryFile(dir=existing(folder))):
            pass
    except CaravanError as error:
        return _refused(name, "a persistent folder", error)
    except OSError as error:
        advice = f"run.folder={folder}: {error.strerror}; give another folder, or change its rights"
        return _failed(name, "cannot be written", "a folder that can be written", advice)
    return disk(RUN, name, folder, free_bytes(folder), needed_gib=0.0, variable="run.folder")


def _plan(config: Config, shape: ModelShape | None, machines: Sequence[Machine]) -> tuple[Config, list[Check]]:
    """The configuration, with filled-in shares if it fits the machines, and the checks of the plan."""
    name, wanted = "plan", "a place for each part"
    try:
        placed = place(config, totals(machines), num_machines=sum(machine.cpus > 0 for machine in machines))
        plan = make_plan(config, shape, machines) if shape else None
    except CaravanError as error:
        return config, [_refused(name, wanted, error)]
    if plan is None:
        return placed, []
    print_plan(plan)
    return plan.config, _plan_checks(plan, wanted)


def _plan_checks(plan: Plan, wanted: str) -> list[Check]:
    if plan.shortages:
        return [
            Check(
                place=RUN,
                name="plan",
                found="too little memory, by estimate",
                wanted=wanted,
                level=Level.WARN,
                advice=line,
            )
            for line in plan.shortages
        ]
    samplers, graders = (sum(getattr(node, name) for node in plan.nodes) for name in ("num_samplers", "num_graders"))
    found = f"{count(samplers, 'sampler')}, {count(graders, 'grader')}, learner"
    return [Check(place=RUN, name="plan", found=found, wanted=wanted)]


def _refused(name: str, wanted: str, error: CaravanError) -> Check:
    return _failed(name, "refused", wanted, str(error))


def _failed(name: str, found: str, wanted: str, advice: str) -> Check:
    return Check(place=RUN, name=name, found=found, wanted=wanted, level=Level.FAIL, advice=advice)
