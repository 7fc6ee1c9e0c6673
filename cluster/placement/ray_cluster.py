"""Ray: joining the cluster that is there or starting one here, and whether everything fits before anything starts."""

import logging
import math
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from cluster.actors.resources import ROUNDING
from cluster.config.config import Config
from cluster.console import count
from cluster.errors import ResourcesError
from cluster.placement.local_ray import num_cores, provide_token, temporary_folder
from cluster.placement.ray_address import OWN, PROBE_SECONDS, Found, find_cluster
from cluster.placement.sentinel import announced
from cluster.placement.submit.lasting import is_job

LEAST_SHRINKING = 0.1
"""Shares of cores are not made smaller than this times what they are: so many parts would only be in each other's way."""

Section = TypeVar("Section", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The Ray that a command works on."""

    resources: Mapping[str, float]  # of all its machines together, by Ray's names
    nodes: Sequence[Mapping[str, Any]]  # as ray.nodes() tells them
    logs: Path  # what the processes on this machine print

    @property
    def num_machines(self) -> int:
        """The machines that have cores for parts of a run."""
        return sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in self.nodes)


@contextmanager
def ray_cluster(log: Callable[[str], None]) -> Iterator["Cluster"]:
    """Join the cluster that RAY_ADDRESS (or ``ray start`` on this machine) names, else start one for this process alone.

    ``log`` takes a line about the cluster that is joined. Whatever was started here is stopped in the end. Raises ResourcesError
    where no cluster can be joined or started.
    """
    # Ray starts workers at nice 15: beside busy processes a vLLM engine then does not start within minutes.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray 2.60 otherwise leaves CUDA_VISIBLE_DEVICES as it is for actors without a GPU, and warns about it.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    # What goes wrong comes back as an exception; what Ray says besides would run through the progress bar.
    logging.getLogger("ray").setLevel(logging.ERROR)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    found = find_cluster(log)
    context = _start(log) if found is None else _join(found)
    if callable(on_sigterm):
        # Ray 2.60 has put its own in place, which ends the process at once; a run that is stopped saves a checkpoint first.
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        cluster = Cluster(
            resources=ray.cluster_resources(),
            nodes=ray.nodes(),
            logs=Path(context.address_info["session_dir"]) / "logs",
        )
        with nullcontext() if found is None else _shared(found, cluster, context.address_info, log):
            yield cluster
    finally:
        ray.shutdown()


def _start(log: Callable[[str], None]) -> Any:
    folder = temporary_folder(log)
    provide_token()
    try:
        return _init("local", num_cpus=num_cores(), _temp_dir=str(folder))
    except Exception as error:  # where its own node does not start in time, Ray raises just that
        raise ResourcesError(
            f"Ray does not start on this machine: {_in_one_line(error)}. Where the machine is busy with other work, try again; "
            f"what Ray's processes say is in {folder}/session_latest/logs"
        ) from error


def _join(found: Found) -> Any:
    try:
        if _is_node(found.address):
            return _init(found.address)
    except Exception as error:  # Ray raises a plain one for other versions
        raise ResourcesError(
            f"the Ray cluster at {found.address} ({found.by}) cannot be joined: {_in_one_line(error)}. {OWN}"
        ) from error
    raise ResourcesError(
        f"the Ray cluster at {found.address} ({found.by}) cannot be joined from here: this machine is no part of it. Call "
        f"`ray start --address={found.address}` here first, or submit the run with `caravan submit`. {OWN}"
    )


def _is_node(address: str) -> bool:
    """Whether this machine is part of a cluster; ``ray.init`` would look for a node of it here for a minute."""
    from ray._private.services import GcsClient, find_node_ids

    nodes = GcsClient(address=address).get_all_node_info(timeout=PROBE_SECONDS)
    return bool({node.hex() for node in nodes} & set(find_node_ids()))


def _init(address: str, **arguments: Any) -> Any:
    import ray

    return ray.init(
        address=address,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace="caravan",
        **arguments,
    )


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


@contextmanager
def _shared(found: Found, cluster: Cluster, here: Mapping[str, Any], log: Callable[[str], None]) -> Iterator[None]:
    """Say which cluster was joined and, should it end, that it has."""
    log(_joined(found, cluster))
    node = next(node for node in cluster.nodes if node["NodeID"] == here["node_id"])
    ended = (
        f"the Ray cluster at {found.address} ({found.by}), which this command had joined, has ended, and the command "
        f"with it. Given again it goes on with what it has saved. {OWN}"
    )
    with announced(ended, [found.address, f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"]):
        yield


def _joined(found: Found, cluster: "Cluster") -> str:
    machines = count(sum(bool(node["Alive"]) for node in cluster.nodes), "machine")
    has = ", ".join(f"{cluster.resources.get(name, 0.0):g} {name}" for name in ("CPU", "GPU"))
    own = "" if is_job() else f", and ends with it. {OWN}"
    return (
        f"joined the Ray cluster at {found.address} ({found.by}): {machines}, {has}; the run shares it with others{own}"
    )


def place(config: Config, resources: Mapping[str, float], *, num_machines: int) -> Config:
    """Fill in who gets which share of GPUs and cores, and refuse with arithmetic what the cluster cannot hold.

    What the configuration sets, stays. Where it leaves shares open, a cluster without GPUs runs on CPUs; otherwise each
    sampler and the learner take a whole GPU where there are enough, else the largest equal share of one that lets all of them
    have a place: nothing is spread over several. Several ranks of the learner take a whole one each in any case, and the samplers
    share the others. Where an engine is split over several GPUs (``rollout.tensor_parallel_size``), all parts take whole ones.
    On a cluster of one machine the shares of its cores that nobody set shrink to what it has.
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
        share = _largest_share(_left_by(learner.gpus, learner.num_ranks, [1.0] * num_gpus), num_samplers)
    rollout = _fill_in(config.rollout, gpus_per_sampler=share)
    if 0 < rollout.gpus_per_sampler < 1:  # an engine takes its fraction of the whole GPU, whatever Ray reserves
        rollout = _fill_in(rollout, gpu_memory_utilization=round(0.85 * rollout.gpus_per_sampler, 3))
    placed = config.model_copy(update={"rollout": rollout, "learner": learner})
    if num_machines == 1:
        placed = _fit_to_cores(placed, resources.get("CPU", 0.0))
    _check(placed, resources)
    return placed


def _fit_to_cores(config: Config, cores: float) -> Config:
    """The same with smaller shares of the cores, where nobody set them and all parts would not fit: a laptop has few."""
    shares = _shares_of_cores(config)
    fixed = sum(number * share for key, (number, share) in shares.items() if _is_set(config, key))
    left_open = sum(number * share for key, (number, share) in shares.items() if not _is_set(config, key))
    if fixed + left_open <= cores + ROUNDING or not left_open or (cores - fixed) / left_open < LEAST_SHRINKING:
        return config
    factor = (cores - fixed) / left_open
    # Ray counts in ten-thousandths.
    smaller = {
        key: math.floor(1e4 * factor * share) / 1e4 for key, (_, share) in shares.items() if not _is_set(config, key)
    }
    for key, share in smaller.items():
        section, name = key.split(".")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={name: share})})
    return config


def fitted_shares(config: Config, placed: Config) -> str | None:
    """A line about the shares of the cores that placing made smaller; None where it made none."""
    before, now = _shares_of_cores(config), _shares_of_cores(placed)
    smaller = [f"{key}={share:g}" for key, (_, share) in now.items() if share != before[key][1]]
    return f"shares of the cores are fitted to this machine: {', '.join(smaller)}" if smaller else None


def _shares_of_cores(config: Config) -> dict[str, tuple[int, float]]:
    """By key: how many parts there are at the least, and the cores of each."""
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
    """The largest share, in hundredths, that so many parts can have each of one GPU, by what is left of each of these.

    1 where they can have none: that is refused, with the arithmetic.
    """
    shares = {min(1.0, gpu / number) for gpu in left if gpu > 0 for number in range(1, num_parts + 1)}
    for share in sorted(shares, reverse=True):
        if sum(math.floor(gpu / share + ROUNDING) for gpu in left) >= num_parts:
            return math.floor(100 * share + ROUNDING) / 100
    return 1.0


def _left_by(share: float, num_parts: int, gpus: Sequence[float]) -> list[float]:
    """What parts leave of GPUs that each take a share of one, the first that has it."""
    left = list(gpus)
    for _ in range(num_parts):
        seat = next((number for number, gpu in enumerate(left) if gpu + ROUNDING >= share), None)
        if seat is None:
            return []
        left[seat] -= share
    return left


def _fill_in(section: Section, **values: float) -> Section:
    """Values for the keys of a section that nobody has set."""
    return section.model_copy(
        update={key: value for key, value in values.items() if key not in section.model_fields_set}
    )


def _check(config: Config, resources: Mapping[str, float]) -> None:
    rollout, grader, learner = config.rollout, config.grader, config.learner
    of_a_sampler = rollout.bundle
    parts = {
        "CPU": [
            _of("samplers", rollout.minimum, of_a_sampler["CPU"]),
            _of("graders", grader.minimum, grader.cpus_per_grader),
            _of_the_learner(learner.num_ranks, learner.cpus),
        ],
        "GPU": [
            _of("samplers", rollout.minimum, of_a_sampler.get("GPU", 0.0)),
            _of_the_learner(learner.num_ranks, learner.gpus),
        ],
    }
    for resource, wanted in parts.items():
        total = sum(amount for _, amount in wanted)
        there = resources.get(resource, 0.0)
        if total > there + ROUNDING:
            by_hand = [key for key in _shares_of_cores(config) if resource == "CPU" and _is_set(config, key)]
            fixed = f" (set: {', '.join(by_hand)})" if by_hand else ""
            raise ResourcesError(
                f"needs {total:g} {resource} ({' + '.join(part for part, _ in wanted)}), but the cluster has {there:g}{fixed}. "
                "Lower rollout.num_samplers, grader.num_graders (or min_samplers, min_graders), learner.num_ranks or what each "
                "part takes (rollout.cpus_per_sampler, learner.gpus, ...; gpus 0 means the CPU), or add machines"
            )


def _of(parts: str, number: int, amount: float) -> tuple[str, float]:
    return f"{number} {parts} x {amount:g}", number * amount


def _of_the_learner(num_ranks: int, amount: float) -> tuple[str, float]:
    return (f"learner {amount:g}", amount) if num_ranks == 1 else _of("ranks of the learner", num_ranks, amount)
