"""The placement of a run's parts on machines, from the configuration, before anything starts."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from cluster.actors.resources import ROUNDING
from cluster.config.config import Config
from cluster.console import count
from cluster.errors import ResourcesError
from cluster.placement.plan.machines import Gpu, Machine, totals
from cluster.placement.plan.memory import Memory, SamplerMemory, learner_memory, sampler_memory
from cluster.placement.plan.model_shape import ModelShape
from cluster.placement.plan.pace import Pace, pace
from cluster.placement.ray_cluster import place
from grader.settings import GraderSettings
from rollout.model import check_split
from rollout.settings import RolloutSettings

FEW_SEQUENCES = 0.5  # of max_concurrent_requests; a smaller KV cache limits an engine's throughput
BUSY_SHARE = 0.5  # of a step; fewer replicas of a part would do if it is busy for less


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
        self.cpus -= cpus
        for number in free:
            self.gpus[number] -= gpu
        return free


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """Memory and pace of the parts on GPUs."""

    gpu: Gpu
    sampler: SamplerMemory | None  # None: samplers run on CPUs
    learner: Memory | None
    pace: Pace | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A configuration placed on machines."""

    config: Config  # with every share of CPUs and GPUs filled in
    nodes: Sequence[PlannedNode]
    on_gpus: GpuPlan | None  # None if no GPU is used, or the GPUs' memory is unknown
    advice: Sequence[str]


def make_plan(config: Config, shape: ModelShape, machines: Sequence[Machine]) -> Plan:
    """Place every part; raises ResourcesError, with the arithmetic, if one does not fit.

    Raises ModelError for a model that cannot be split over ``rollout.tensor_parallel_size`` GPUs.
    """
    check_split(config.model.path, config.rollout.tensor_parallel_size, heads=shape.heads, kv_heads=shape.kv_heads)
    placed = place(config, totals(machines), num_machines=sum(machine.cpus > 0 for machine in machines))
    nodes = _assign_parts(placed, machines)
    on_gpus = _on_gpus(placed, shape, machines)
    advice = _growth_advice(placed, nodes)
    if on_gpus is not None:
        advice += [*_memory_advice(placed, on_gpus), *_pace_advice(placed, on_gpus.pace)]
    return Plan(config=placed, nodes=nodes, on_gpus=on_gpus, advice=advice)


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
    for name in ranks:
        _place(nodes, name, learner.cpus, learner.gpus)
    _fill(
        range(rollout.num_samplers),
        lambda number: _place_sampler(nodes, rollout, number),
        minimum=rollout.minimum,
    )
    _fill(range(grader.num_graders), lambda number: _place_grader(nodes, grader, number), minimum=grader.minimum)
    return nodes


def _fill(numbers: range, place_one: Callable[[int], None], *, minimum: int = 0) -> None:
    """Place parts until one does not fit. Raises ResourcesError below ``minimum``; a run starts the others later."""
    for number in numbers:
        try:
            place_one(number)
        except ResourcesError:
            if number < minimum:
                raise
            return


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


def _on_gpus(config: Config, shape: ModelShape, machines: Sequence[Machine]) -> GpuPlan | None:
    """Estimate memory on the smallest GPU, since any part may be placed on it."""
    kinds = [machine.gpu for machine in machines if machine.gpu is not None and machine.gpu.gib is not None]
    if not kinds or not (config.rollout.gpus_per_sampler or config.learner.gpus):
        return None
    gpu = min(kinds, key=lambda kind: kind.gib or 0.0)
    gib = gpu.gib or 0.0
    sampler = sampler_memory(config, shape, gib) if config.rollout.gpus_per_sampler else None
    shared = 0 < config.rollout.gpus_per_sampler < 1 and 0 < config.learner.gpus < 1
    sampler_gib = sampler.limit if sampler and shared else 0.0
    learner = learner_memory(config, shape, gib - sampler_gib) if config.learner.gpus else None
    grading_cpus = sum(machine.cpus for machine in machines)
    speed = pace(config, shape, gpu, sampler, grading_cpus=grading_cpus) if sampler and learner else None
    plan = GpuPlan(gpu=gpu, sampler=sampler, learner=learner, pace=speed)
    _refuse_what_does_not_fit(config, plan)
    return plan


def _refuse_what_does_not_fit(config: Config, plan: GpuPlan) -> None:
    sampler, learner = plan.sampler, plan.learner
    if sampler is not None and sampler.num_sequences < 1:
        raise ResourcesError(
            f"a sampler does not fit on a {_smallest(plan)}: of {sampler.limit:.1f} GiB (rollout.gpu_memory_utilization="
            f"{config.rollout.gpu_memory_utilization:g} of {plan.gpu.gib:g} GiB) it takes {_sum(sampler)}, which leaves "
            f"{sampler.cache:.1f} GiB of KV cache, less than one completion needs. Give it more of a GPU, lower "
            "rollout.max_completion_tokens, max_concurrent_requests or the model, or weight_sync_mode=merged (no adapters)"
        )
    if learner is not None and learner.total > learner.limit:
        raise ResourcesError(
            f"the learner does not fit on a {_smallest(plan)}: it takes {_sum(learner)}, and has {learner.limit:.1f} GiB. Lower "
            "learner.micro_batch_tokens (activations and logits go with it), set learner.gradient_checkpointing=true, lower "
            "rollout.gpu_memory_utilization where they share a GPU, or spread the weights over ranks with learner.shard_base"
        )


def _smallest(plan: GpuPlan) -> str:
    return f"{plan.gpu.name} (the smallest GPU: any part may be placed on it)"


def _sum(memory: Memory) -> str:
    return " + ".join(f"{name} {gib:.1f}" for name, gib in memory.parts.items()) + f" = {memory.total:.1f} GiB"


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


def _memory_advice(config: Config, plan: GpuPlan) -> list[str]:
    advice = []
    wanted = config.rollout.max_concurrent_requests
    if plan.sampler is not None and plan.sampler.num_sequences < FEW_SEQUENCES * wanted:
        advice.append(
            f"The KV cache holds {plan.sampler.num_sequences:.0f} completions of full length, not the {wanted} of "
            "rollout.max_concurrent_requests: raise rollout.gpu_memory_utilization, or lower the latter."
        )
    if plan.learner is not None and plan.learner.total < plan.learner.limit / 3:
        times = int((plan.learner.limit - 2) / plan.learner.total)
        advice.append(
            f"The learner takes {plan.learner.total:.0f} of {plan.learner.limit:.0f} GiB: learner.micro_batch_tokens could be "
            f"{times}x as large, with fewer passes."
        )
    return advice


def _pace_advice(config: Config, speed: Pace | None) -> list[str]:
    if speed is None:
        return ["No pace is estimated: the data sheet of these GPUs is not known here."]
    advice = []
    if speed.bottleneck == "learning":
        advice.append(
            f"The learner is the bottleneck: sampling takes {speed.sampling:.1f} s of a step, learning {speed.learning:.1f} s. "
            "Add ranks (learner.num_ranks) before samplers."
        )
    elif speed.bottleneck == "sampling":
        balanced = math.ceil(config.rollout.num_samplers * speed.sampling / max(speed.learning, speed.grading))
        advice.append(
            f"The samplers are the bottleneck: sampling takes {speed.sampling:.1f} s of a step, learning {speed.learning:.1f} s. "
            f"{count(balanced, 'sampler')} would keep pace."
        )
    else:
        advice.append(
            f"The graders may be the bottleneck: up to {speed.grading:.1f} s of a step. Add graders and machines for them."
        )
    # With more samplers fewer completions run on each, which is hardly faster.
    if speed.overlaps and speed.sampling < BUSY_SHARE * speed.step and config.rollout.num_samplers > 1:
        fewer = math.ceil(config.rollout.num_samplers * speed.sampling / speed.step / BUSY_SHARE)
        advice.append(f"{count(fewer, 'sampler')} would do, with more concurrent completions on each.")
    rollouts = max(speed.sampling, speed.grading)
    if not speed.overlaps and min(rollouts, speed.learning) > 0.2 * speed.step:
        advice.append(
            "Samplers and learner wait for one another: with loop.max_staleness=1 they work at the same time."
        )
    enough = math.ceil(config.grader.num_graders * speed.grading / speed.step / BUSY_SHARE)
    if enough < config.grader.num_graders:
        advice.append(f"{count(enough, 'grader')} would do.")
    return advice
