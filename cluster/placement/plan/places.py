"""The placement of a run's parts on machines, from the configuration, before anything starts."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from cluster.actors.resources import ROUNDING
from cluster.config.config import Config
from cluster.console import count
from cluster.errors import ResourcesError
from cluster.placement.plan.advice import memory_advice, pace_advice
from cluster.placement.plan.gpu_plan import GpuPlan, plan_gpus, require_fit, shortages
from cluster.placement.plan.machines import Machine, totals
from cluster.placement.plan.model_shape import ModelShape
from cluster.placement.plan.sharing import with_kv_cache
from cluster.placement.ray_cluster import filled_in, place
from grader.settings import GraderSettings
from learner.settings import LearnerSettings
from rollout.model import check_split
from rollout.settings import RolloutSettings


@dataclass(slots=True)
class PlannedNode:
    """One machine with the parts placed on it and its free resources."""

    machine: Machine
    cpus: float  # free
    gpus: list[float]  # free share of each GPU
    on_gpus: list[list[str]] = field(default_factory=list)  # parts on each GPU
    num_samplers: int = 0
    num_graders: int = 0
    others: list[str] = field(default_factory=list)  # parts without a GPU, except graders

    def take(self, cpus: float, gpu: float, num_gpus: int = 1) -> list[int] | None:
        """Take cores and a share of each of ``num_gpus`` GPUs; returns the GPUs' numbers, None if the part does not fit."""
        free = [number for number, left in enumerate(self.gpus) if gpu and gpu <= left + ROUNDING][:num_gpus]
        if cpus > self.cpus + ROUNDING or (gpu and len(free) < num_gpus):
            return None
        self.cpus = max(0.0, self.cpus - cpus)  # shares that are rounded may exceed it by their rounding
        for number in free:
            self.gpus[number] = max(0.0, self.gpus[number] - gpu)
        return free


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A configuration placed on machines."""

    config: Config  # with all shares of cores and GPUs, and the sizes that follow from the GPUs' memory
    filled_in: str | None  # a line on the settings that the plan has filled in
    nodes: Sequence[PlannedNode]
    on_gpus: GpuPlan | None  # None if no GPU is used, or the GPUs' memory is unknown
    shortages: Sequence[str]  # parts that do not fit by the estimates, one line each
    advice: Sequence[str]


def make_plan(config: Config, shape: ModelShape, machines: Sequence[Machine]) -> Plan:
    """Place every part, and estimate memory and pace.

    Raises ResourcesError, with the arithmetic, if the shares of the parts do not fit the machines or their weights do not fit the
    GPUs. Parts that do not fit by estimate are in ``shortages``. Raises ModelError for a model that cannot be split over
    ``rollout.tensor_parallel_size`` GPUs.
    """
    check_split(config.model.path, config.rollout.tensor_parallel_size, heads=shape.heads, kv_heads=shape.kv_heads)
    placed = place(config, totals(machines), num_machines=sum(machine.cpus > 0 for machine in machines))
    require_fit(placed, shape, machines)
    nodes = _assign_parts(placed, machines)
    on_gpus = plan_gpus(placed, shape, machines, samplers_on_one=_samplers_on_one_gpu(nodes))
    advice = _growth_advice(placed, nodes)
    too_small: list[str] = []
    if on_gpus is not None:
        placed = on_gpus.config
        too_small = shortages(placed, on_gpus)
        advice += [*memory_advice(placed, on_gpus), *pace_advice(placed, on_gpus)]
        placed = with_kv_cache(placed, shape, on_gpus.gib)
    return Plan(
        config=placed,
        filled_in=filled_in(config, placed),
        nodes=nodes,
        on_gpus=on_gpus,
        shortages=too_small,
        advice=advice,
    )


def _assign_parts(config: Config, machines: Sequence[Machine]) -> list[PlannedNode]:
    """Assign the learner first, then samplers, then graders, which prefer machines without GPUs."""
    nodes = [
        PlannedNode(
            machine=machine,
            cpus=machine.cpus,
            gpus=[1.0] * machine.num_gpus,
            on_gpus=[[] for _ in range(machine.num_gpus)],
        )
        for machine in machines
    ]
    rollout, learner, grader = config.rollout, config.learner, config.grader
    ranks = ["learner"] if learner.num_ranks == 1 else [f"learner {rank}" for rank in range(learner.num_ranks)]
    large_enough = [node for node in nodes if _holds_all_ranks(node, learner)]  # as learner.placement.place_ranks
    for name in ranks:
        _place(large_enough[:1] or nodes, name, learner.cpus, learner.gpus)
    _fill(
        range(rollout.num_samplers),
        lambda number: _place_sampler(nodes, rollout, number),
        minimum=rollout.minimum,
    )
    _fill(range(grader.num_graders), lambda number: _place_grader(nodes, grader, number), minimum=grader.minimum)
    return nodes


def _samplers_on_one_gpu(nodes: Sequence[PlannedNode]) -> int:
    """Largest number of samplers that are placed on one GPU."""
    gpus = [names for node in nodes for names in node.on_gpus]
    return max((sum(name.startswith("sampler") for name in names) for names in gpus), default=0)


def _fill(numbers: range, place_one: Callable[[int], None], *, minimum: int = 0) -> None:
    """Place parts until one does not fit. Raises ResourcesError below ``minimum``; a run starts the others later."""
    for number in numbers:
        try:
            place_one(number)
        except ResourcesError:
            if number < minimum:
                raise
            return


def _holds_all_ranks(node: PlannedNode, learner: LearnerSettings) -> bool:
    free = deepcopy(node)
    return all(free.take(learner.cpus, learner.gpus) is not None for _ in range(learner.num_ranks))


def _place_sampler(nodes: Sequence[PlannedNode], rollout: RolloutSettings, number: int) -> None:
    ranks = rollout.tensor_parallel_size
    node = _place(nodes, f"sampler {number}", rollout.cpus_per_sampler, rollout.gpus_per_sampler, num_gpus=ranks)
    node.num_samplers += 1


def _place_grader(nodes: Sequence[PlannedNode], grader: GraderSettings, number: int) -> None:
    """Place a grader on the freest machine without GPUs; Ray prefers these, too, for actors that need no GPU."""
    free = sorted(nodes, key=lambda node: (node.machine.num_gpus > 0, -node.cpus))
    node = next((node for node in free if node.take(grader.cpus_per_grader, 0.0) is not None), None)
    if node is None:
        raise _no_place(nodes, f"grader {number}", grader.cpus_per_grader, 0.0)
    node.num_graders += 1


def _place(nodes: Sequence[PlannedNode], name: str, cpus: float, gpu: float, *, num_gpus: int = 1) -> PlannedNode:
    """Place one part on the first machine where it fits; returns the machine."""
    for node in nodes:
        on_gpus = node.take(cpus, gpu, num_gpus)
        if on_gpus is None:
            continue
        for number in on_gpus:
            node.on_gpus[number].append(name if gpu == 1 else f"{name} ({gpu:g})")
        if not on_gpus:
            node.others.append(name)
        return node
    raise _no_place(nodes, name, cpus, gpu * num_gpus if gpu else 0.0)


def _no_place(nodes: Sequence[PlannedNode], name: str, cpus: float, gpus: float) -> ResourcesError:
    left = "; ".join(
        f"{node.machine.name}: {node.cpus:g} CPU" + "".join(f", {gpu:g} GPU" for gpu in node.gpus) for node in nodes
    )
    return ResourcesError(
        f"{name} needs {cpus:g} CPU and {gpus:g} GPU on one machine, and the parts before it leave: {left}. "
        "Lower what the parts take (rollout.gpus_per_sampler, learner.gpus, *.cpus...) or their numbers, or add machines"
    )


def _growth_advice(config: Config, nodes: Sequence[PlannedNode]) -> list[str]:
    """Advice on how far the pools can grow on these machines, after all parts have started."""
    rollout, grader = config.rollout, config.grader
    grown = deepcopy(nodes)
    num_samplers, num_graders = (
        sum(node.num_samplers for node in nodes),
        sum(node.num_graders for node in nodes),
    )
    _fill(range(num_samplers, rollout.maximum), lambda number: _place_sampler(grown, rollout, number))
    advice = _growth("sampler", "rollout.max_samplers", rollout.max_samplers, sum(node.num_samplers for node in grown))
    grown = deepcopy(nodes)
    _fill(range(num_graders, grader.maximum), lambda number: _place_grader(grown, grader, number))
    return advice + _growth("grader", "grader.max_graders", grader.max_graders, sum(node.num_graders for node in grown))


def _growth(part: str, key: str, wanted: int | None, fitting: int) -> list[str]:
    if wanted is None:
        return []
    rest = "" if fitting == wanted else " at most; more start when machines join"
    return [f"{key}={wanted}: there is room for {count(fitting, part)}{rest}."]
