"""The Ray cluster of a command, joined or started, and the shares of its resources that each part of a run gets."""

import logging
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from cluster.actors.gpus import hidden_gpus
from cluster.actors.resources import ROUNDING
from cluster.config.config import Config, flatten
from cluster.config.keys import keys_with
from cluster.console import count
from cluster.cores import usable_cores
from cluster.errors import ResourcesError
from cluster.placement.local_ray import provide_token, start_ray, temporary_folder
from cluster.placement.plan.sharing import samplers_per_gpu
from cluster.placement.ray_address import OWN, PROBE_SECONDS, FoundCluster, find_cluster
from cluster.placement.sentinel import announced
from cluster.placement.submit.persistent import is_job
from cluster.setting_traits import Trait
from learner.settings import LearnerSettings

MIN_CORES_FACTOR = 0.1
"""Lowest factor by which shares of cores shrink: with less, the parts would only slow each other down."""

QUIET: Mapping[str, Any] = {
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": logging.ERROR,
    "namespace": "caravan",
}
"""Arguments of ``ray.init`` for every cluster, joined or started."""

NEEDED_BYTES = 100 * 2**20
"""Free bytes of Ray's folder with which a start that fails has another cause: logs, sockets and the first objects."""

Section = TypeVar("Section", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The Ray cluster that a command uses."""

    resources: Mapping[str, float]  # total over its machines, by Ray's names
    nodes: Sequence[Mapping[str, Any]]  # from ray.nodes()
    logs: Path  # output of the processes on this machine

    @property
    def num_machines(self) -> int:
        """Number of machines with cores for parts of a run."""
        return sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in self.nodes)


@contextmanager
def ray_cluster(log: Callable[[str], None]) -> Iterator["Cluster"]:
    """Join the cluster of RAY_ADDRESS or of ``ray start`` on this machine; without one, start a cluster for this process alone.

    ``log`` takes a line about a cluster that is joined. A cluster that was started here is stopped at the end of the block.
    Raises ResourcesError if no cluster can be joined or started.
    """
    # Ray starts workers at nice 15: next to busy processes a vLLM engine then does not start within minutes.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray 2.60 otherwise leaves CUDA_VISIBLE_DEVICES as it is for actors without a GPU, and warns about it.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    # Errors are raised as exceptions; Ray's log lines would break the progress bar.
    logging.getLogger("ray").setLevel(logging.ERROR)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    found = find_cluster(log)
    context = _start(log) if found is None else _join(found)
    if callable(on_sigterm):
        # Ray 2.60 installs a handler that ends the process at once; a run that is stopped saves a checkpoint first.
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        cluster = Cluster(
            resources=ray.cluster_resources(),
            nodes=ray.nodes(),
            logs=Path(context.address_info["session_dir"]) / "logs",
        )
        # Not before Ray's start: it counts the GPUs that it sees. The driver itself computes on none.
        with hidden_gpus(), nullcontext() if found is None else _shared(found, cluster, context.address_info, log):
            yield cluster
    finally:
        ray.shutdown()


def _start(log: Callable[[str], None]) -> Any:
    folder = temporary_folder(log)
    provide_token()
    try:
        return start_ray(log, num_cpus=usable_cores(), _temp_dir=str(folder), **QUIET)
    except Exception as error:  # Ray raises a plain Exception if its node does not start in time
        raise ResourcesError(
            f"Ray does not start on this machine: {_one_line(error)}. {_start_advice(folder)}; the logs of Ray's processes are "
            f"in {folder}/session_latest/logs"
        ) from error


def _start_advice(folder: Path) -> str:
    """Advice for a start of Ray that fails with its files in ``folder``."""
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        return f"{folder} has {free / 2**20:.0f} MiB free: make room there, or set RAY_TMPDIR to another folder"
    return "Where the machine is busy with other work, try again"


def _join(found: FoundCluster) -> Any:
    try:
        if _is_node(found.address):
            return _init(found.address)
    except Exception as error:  # Ray raises a plain Exception for a cluster of another version
        raise ResourcesError(
            f"the Ray cluster at {found.address} ({found.source}) cannot be joined: {_one_line(error)}. {OWN}"
        ) from error
    raise ResourcesError(
        f"the Ray cluster at {found.address} ({found.source}) cannot be joined from here: this machine is not part of it. Run "
        f"`ray start --address={found.address}` here first, or submit the run with `caravan submit`. {OWN}"
    )


def _is_node(address: str) -> bool:
    """Return True if this machine is part of a cluster; ``ray.init`` would look for its node here for a minute."""
    from ray._private.services import GcsClient, find_node_ids

    nodes = GcsClient(address=address).get_all_node_info(timeout=PROBE_SECONDS)
    return bool({node.hex() for node in nodes} & set(find_node_ids()))


def _init(address: str) -> Any:
    import ray

    return ray.init(address=address, **QUIET)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


@contextmanager
def _shared(
    found: FoundCluster, cluster: Cluster, here: Mapping[str, Any], log: Callable[[str], None]
) -> Iterator[None]:
    """Log which cluster was joined, and report its end if it ends during the block."""
    log(_joined(found, cluster))
    node = next(node for node in cluster.nodes if node["NodeID"] == here["node_id"])
    ended = (
        f"the Ray cluster at {found.address} ({found.source}), which this command had joined, has ended, and the command "
        f"with it. The same command resumes from what is saved. {OWN}"
    )
    with announced(ended, [found.address, f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"]):
        yield


def _joined(found: FoundCluster, cluster: "Cluster") -> str:
    machines = count(sum(bool(node["Alive"]) for node in cluster.nodes), "machine")
    has = ", ".join(f"{cluster.resources.get(name, 0.0):g} {name}" for name in ("CPU", "GPU"))
    own = "" if is_job() else f", and ends with it. {OWN}"
    where = f"{found.address} ({found.source})"
    return f"joined the Ray cluster at {where}: {machines}, {has}; the run shares it with other work{own}"


def place(config: Config, resources: Mapping[str, float], *, num_machines: int) -> Config:
    """Fill in each part's share of GPUs and cores; raises ResourcesError, with the arithmetic, if the parts do not fit.

    Settings of the configuration stay. Unset shares: without GPUs everything runs on CPUs. With enough GPUs each sampler and
    the learner take a whole one, otherwise the largest equal share with which all of them fit; no part is spread over several.
    Several learner ranks take a whole GPU each, and the samplers share the others. With ``rollout.tensor_parallel_size`` above 1
    all parts take whole GPUs. A sampler on a GPU takes a core for its actor, one for its engine and, if it is split, one for each
    GPU's process. On a cluster of one machine the unset shares of cores shrink to the cores it has.
    """
    num_gpus, num_samplers, learner = int(resources.get("GPU", 0.0)), config.rollout.num_samplers, config.learner
    if not num_gpus:
        share = 0.0
    elif config.rollout.tensor_parallel_size > 1:
        learner = _fill_in(learner, gpus=1.0)
        share = 1.0
    else:
        if learner.num_ranks > 1:
            learner = _fill_in(learner, gpus=1.0)
        elif "gpus" not in learner.model_fields_set:
            learner = _fill_in(learner, gpus=_largest_share([1.0] * num_gpus, num_samplers + 1))
        share = _largest_share(_free_shares(learner.gpus, learner.num_ranks, [1.0] * num_gpus), num_samplers)
    rollout = _fill_in(config.rollout, gpus_per_sampler=share)
    if rollout.gpus_per_sampler:
        ranks = rollout.tensor_parallel_size
        rollout = _fill_in(rollout, cpus_per_sampler=2.0 if ranks == 1 else 2.0 + ranks)
    if 0 < rollout.gpus_per_sampler < 1:  # an engine takes its fraction of the whole GPU, whatever Ray reserves
        rollout = _fill_in(rollout, gpu_memory_utilization=round(0.85 * rollout.gpus_per_sampler, 3))
    placed = config.model_copy(update={"rollout": rollout, "learner": learner})
    placed = placed.model_copy(update={"learner": _with_memory(placed)})
    if num_machines == 1:
        placed = _fit_to_cores(placed, resources.get("CPU", 0.0), set_by_user=config)
    _check(placed, resources, set_by_user=config)
    return placed


def _with_memory(config: Config) -> LearnerSettings:
    """Limit the learner to the memory that samplers on its GPU leave; no limit without such samplers, or if they leave none."""
    learner, number = config.learner, samplers_per_gpu(config, next_to_learner=True)
    left = round(1 - number * config.rollout.gpu_memory_utilization, 3)
    return _fill_in(learner, gpu_memory_share=left) if learner.shares_gpu and number and left > 0 else learner


def _fit_to_cores(config: Config, cores: float, *, set_by_user: Config) -> Config:
    """Shrink the shares of cores that ``set_by_user`` leaves unset if the parts would not fit, as on a laptop."""
    shares = _shares_of_cores(config)
    fixed = sum(number * share for key, (number, share) in shares.items() if _is_set(set_by_user, key))
    left_open = sum(number * share for key, (number, share) in shares.items() if not _is_set(set_by_user, key))
    if fixed + left_open <= cores + ROUNDING or not left_open or (cores - fixed) / left_open < MIN_CORES_FACTOR:
        return config
    factor = (cores - fixed) / left_open
    # Ray counts in ten-thousandths.
    smaller = {
        key: math.floor(1e4 * factor * share) / 1e4
        for key, (_, share) in shares.items()
        if not _is_set(set_by_user, key)
    }
    for key, share in smaller.items():
        section, name = key.split(".")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={name: share})})
    return config


def filled_in(config: Config, placed: Config) -> str | None:
    """A line on the settings that placement has filled in with another value than the default; None without any."""
    before, now = flatten(config), flatten(placed)
    changed = [f"{key}={now[key]}" for key in keys_with(Trait.FROM_CLUSTER) if now[key] != before[key]]
    return f"filled in for these machines: {', '.join(changed)}" if changed else None


def _shares_of_cores(config: Config) -> dict[str, tuple[int, float]]:
    """Key -> (minimum number of parts, cores of each)."""
    rollout, grader, learner = config.rollout, config.grader, config.learner
    return {
        "rollout.cpus_per_sampler": (rollout.minimum, rollout.cpus_per_sampler),
        "grader.cpus_per_grader": (grader.minimum, grader.cpus_per_grader),
        "learner.cpus": (learner.num_ranks, learner.cpus),
    }


def _is_set(config: Config, key: str) -> bool:
    section, name = key.split(".")
    return name in getattr(config, section).model_fields_set


def _largest_share(left: Sequence[float], num_parts: int) -> float:
    """The largest share of a GPU, in hundredths, that each of ``num_parts`` can have, given the free share of each GPU.

    Returns 1 if they do not fit; ``_check`` then refuses with the arithmetic.
    """
    shares = {min(1.0, gpu / number) for gpu in left if gpu > 0 for number in range(1, num_parts + 1)}
    for share in sorted(shares, reverse=True):
        if sum(math.floor(gpu / share + ROUNDING) for gpu in left) >= num_parts:
            return math.floor(100 * share + ROUNDING) / 100
    return 1.0


def _free_shares(share: float, num_parts: int, gpus: Sequence[float]) -> list[float]:
    """Free share of each GPU after ``num_parts`` have taken ``share`` of the first GPU that has it."""
    left = list(gpus)
    for _ in range(num_parts):
        chosen = next((number for number, gpu in enumerate(left) if gpu + ROUNDING >= share), None)
        if chosen is None:
            return []
        left[chosen] -= share
    return left


def _fill_in(section: Section, **values: float) -> Section:
    """Set the keys of a section that the configuration leaves unset."""
    return section.model_copy(
        update={key: value for key, value in values.items() if key not in section.model_fields_set}
    )


def _check(config: Config, resources: Mapping[str, float], *, set_by_user: Config) -> None:
    rollout, grader, learner = config.rollout, config.grader, config.learner
    sampler = rollout.bundle
    parts = {
        "CPU": [
            _of("sampler", rollout.minimum, sampler["CPU"]),
            _of("grader", grader.minimum, grader.cpus_per_grader),
            _of_the_learner(learner.num_ranks, learner.cpus),
        ],
        "GPU": [
            _of("sampler", rollout.minimum, sampler.get("GPU", 0.0)),
            _of_the_learner(learner.num_ranks, learner.gpus),
        ],
    }
    for resource, wanted in parts.items():
        total = sum(amount for _, amount in wanted)
        there = resources.get(resource, 0.0)
        if total > there + ROUNDING:
            by_hand = [key for key in _shares_of_cores(config) if resource == "CPU" and _is_set(set_by_user, key)]
            fixed = f" (set: {', '.join(by_hand)})" if by_hand else ""
            raise ResourcesError(
                f"needs {total:g} {resource} ({' + '.join(part for part, _ in wanted)}), but the cluster has {there:g}{fixed}. "
                "Lower rollout.num_samplers, grader.num_graders (or min_samplers, min_graders), learner.num_ranks or what each "
                "part takes (rollout.cpus_per_sampler, learner.gpus, ...; gpus 0 means the CPU), or add machines"
            )


def _of(part: str, number: int, amount: float) -> tuple[str, float]:
    return f"{count(number, part)} x {amount:g}", number * amount


def _of_the_learner(num_ranks: int, amount: float) -> tuple[str, float]:
    name = "learner" if num_ranks == 1 else f"{num_ranks} ranks of the learner x"
    return f"{name} {amount:g}", num_ranks * amount
