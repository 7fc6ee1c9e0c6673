"""Checks before a run starts its parts, and the loading of its prompts and data."""

import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from cluster.config.config import Config
from cluster.config.initial_adapter import with_initial_adapter
from cluster.config.method import AUTO
from cluster.config.model_path import check_model_path, model_path
from cluster.console import View
from cluster.errors import CaravanError, ConfigError, ModelError, RunFolderError
from cluster.ledger.run_folder import RunFolder
from cluster.placement.check.checks import Level, needs_of, shared_memory
from cluster.placement.check.node_facts import shared_memory_bytes
from cluster.placement.gpu_facts import gpus_of_nodes
from cluster.placement.nodes import ask_nodes
from cluster.placement.plan.gpu_plan import require_fit
from cluster.placement.plan.machines import machines_of
from cluster.placement.plan.model_shape import shape_of, trained_size
from cluster.placement.plan.places import make_plan
from cluster.placement.ray_cluster import Cluster, filled_in, place
from cluster.placement.submit.persistent import is_job, require_persistent
from cluster.problems.run_data import RunData, split_for_run
from cluster.run.initial_adapter import initial_adapter, log_initial_adapter
from cluster.run.loading import RenderedProblems, load_and_render
from cluster.run.prompts import prompt_date
from cluster.types import Problem
from learner.training.checkpoints import newest_checkpoint, step_of
from rollout.model import check_split, has_safetensors
from rollout.preflight import Preflight, preflight


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """The loaded inputs of a run, before its parts start."""

    rendered: RenderedProblems
    data: RunData | None  # the data and split of an earlier start; None without one
    adapter_targets: Sequence[str]  # modules of the model that the adapter trains
    num_steps_done: int


def check_settings(config: Config) -> tuple[Config, RunFolder]:
    """Refuse settings with which no run can start; returns them with date and digest of its prompts and with its initial adapter.

    Also returns the run folder. Raises ConfigError, RunFolderError for a run that is finished, ModelError for a path that is no
    model or adapter.
    """
    refuse_adapter(config, "train")
    if is_job():
        require_persistent(config.run.folder)
    folder = RunFolder(config.run.folder / (config.run.name or "run"))
    config = config.with_prompt(date=folder.prompt_date() or prompt_date(config))
    if newest_checkpoint(folder.checkpoints):
        config = config.with_prompt(template_hash=folder.template_hash())
    with folder.explain_errors(folder.path):  # a path may be too long, or lead through a file
        _require_more_to_do(config, folder)
    check_model_path(config)
    return with_initial_adapter(config, initial_adapter(config, folder)), folder


def refuse_adapter(config: Config, command: str) -> None:
    """Raise ConfigError for an adapter that ``command`` would ignore."""
    if command == "sft" and config.learner.adapter:
        raise ConfigError(
            f"learner.adapter={config.learner.adapter}: sft trains a new adapter; merge the first one into its base model "
            "(`caravan export RUN OUT --merge`) and give model.path=OUT"
        )
    if config.model.adapter:
        raise ConfigError(
            f"model.adapter={config.model.adapter}: {command} does not read it. To train an adapter further: `caravan train "
            f"learner.adapter={config.model.adapter}`. To continue the run itself: `caravan train --resume RUN`"
        )


def load_run(config: Config, folder: RunFolder, view: View, *, allow_changed_data: bool) -> LoadedRun:
    """Load the problems, render their prompts, and refuse a model or data that cannot be trained.

    Raises RunFolderError for other data than an earlier start had, unless ``allow_changed_data``; ModelError, ConfigError and
    DatasetError.
    """
    newest = newest_checkpoint(folder.checkpoints)
    data = RunData.read(folder) if newest else None
    if newest and data is None:
        view.log(f"{folder.path} has no data.jsonl (an older Caravan started it): its data is split again")

    def check(problems: Sequence[Problem]) -> None:
        if data and (changes := data.check(problems, folder.path, allowed=allow_changed_data)):
            view.log(changes)

    rendered = load_and_render(config, view, check)
    size = trained_size(config)
    view.log(str(size))
    log_initial_adapter(config, folder, view)
    num_gpus = config.rollout.tensor_parallel_size
    if num_gpus > 1:
        shape = shape_of(model_path(config))
        check_split(config.model.path, num_gpus, heads=shape.heads, kv_heads=shape.kv_heads)
    split_for_run(data, rendered.problems, config)  # refuses too few problems
    return LoadedRun(
        rendered=rendered, data=data, adapter_targets=size.targets, num_steps_done=step_of(newest) if newest else 0
    )


def inspect_model(config: Config) -> AbstractAsyncContextManager[Preflight]:
    """Check in another process, while the block runs, that vLLM supports the model."""
    return preflight(
        config.rollout,
        model=model_path(config),
        lora_rank=config.learner.lora.r,
        max_staleness=config.loop.max_staleness,
    )


async def require_served(inspection: Preflight, view: View) -> None:
    """Wait for vLLM's answer about the model; raises ModelError if vLLM refuses it."""
    if unknown := await inspection.wait():
        view.warn(
            f"the check that vLLM serves the model has no result; the samplers check it when they start: {unknown}"
        )


def place_run(config: Config, cluster: Cluster, view: View) -> Config:
    """Fill in the settings that follow from the cluster, log them, and warn of GPUs that look too small.

    Raises ResourcesError for parts that the cluster cannot hold.
    """
    placed = _placed(config, cluster, view)
    if line := filled_in(config, placed):
        view.log(line)
    placed = _with_sync_mode(placed, view)
    _warn_of_shared_memory(placed, cluster, view)
    return placed


def _with_sync_mode(config: Config, view: View) -> Config:
    """Choose the weight sync mode that ``auto`` stands for, and log it."""
    if config.rollout.weight_sync_mode != AUTO:
        return config
    mode, reason = config.rollout.chosen_sync_mode, "auto"
    if mode == "merged" and not has_safetensors(model_path(config)):
        mode, reason = "versions", "auto; the model has no *.safetensors into which adapters could be merged"
    view.log(f"rollout.weight_sync_mode={mode} ({reason})")
    return config.model_copy(update={"rollout": config.rollout.model_copy(update={"weight_sync_mode": mode})})


def _warn_of_shared_memory(config: Config, cluster: Cluster, view: View) -> None:
    """Warn of machines with too little shared memory for the parts that may run there."""
    nodes = [node for node in cluster.nodes if node["Alive"]]
    found = [(node, needs_of(config, machine)) for node, machine in zip(nodes, machines_of(nodes, {}), strict=True)]
    concerned = [(node, needs) for node, needs in found if needs.shares_memory]
    sizes = ask_nodes([node for node, _ in concerned], shared_memory_bytes)
    for (node, needs), size in zip(concerned, sizes, strict=True):
        check = shared_memory(node["NodeManagerAddress"], size, needs)
        if check.level is not Level.OK:
            view.warn(f"{check.place}: {check.name} has {check.found}, and {check.wanted} are needed: {check.advice}")


def _placed(config: Config, cluster: Cluster, view: View) -> Config:
    placed = place(config, cluster.resources, num_machines=cluster.num_machines)
    if not cluster.resources.get("GPU"):
        return placed
    gpus = gpus_of_nodes(cluster.nodes)
    for reason in {gpu.error for gpu in gpus.values() if gpu.error}:
        view.warn(f"GPU memory is not checked: {reason}")
    machines = machines_of(cluster.nodes, gpus)
    try:
        shape = shape_of(model_path(config))
    except ModelError as error:
        view.warn(f"GPU memory is not checked: {error}")
        return placed
    require_fit(placed, shape, machines)
    try:
        plan = make_plan(config, shape, machines)
    except CaravanError as error:  # Ray may find another placement
        view.warn(f"by `caravan plan`, {error}")
        return placed
    for line in plan.shortages:
        view.warn(f"by the estimates of `caravan plan`, {line}")
    return plan.config


def _require_more_to_do(config: Config, folder: RunFolder) -> None:
    """Raise RunFolderError for a finished run, unless it has been extended and has a checkpoint to resume from."""
    if not folder.summary.exists():
        return
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    is_extended = config.num_steps(summary["problems"]["training"]) > summary["steps"]
    if not is_extended or newest_checkpoint(folder.checkpoints) is None:
        raise RunFolderError(
            f"{folder.path} is finished after {summary['steps']} steps: see {folder.summary} and {folder.curve}. Extend it with "
            f"`caravan train --resume {folder.argument} max_steps=MORE`, start another run with run.name=NAME, or delete the "
            "folder to train again"
        )
