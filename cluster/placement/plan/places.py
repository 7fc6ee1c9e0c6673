"""Who goes where, and whether it fits: a plan made from the configuration and the machines, before anything starts."""

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

FEW_SEQUENCES = 0.5  # of max_concurrent_requests; with less cache than for these an engine is far from its best
BUSY_SHARE = 0.5  # a part that is busy for less of a step is more than is needed


@dataclass(slots=True)
class Seats:
    """What is placed on one machine, and what it has left."""

    machine: Machine
    cpus: float
    gpus: list[float]  # left of each
    on_gpus: list[list[str]] = field(default_factory=list)
    num_samplers: int = 0
    num_graders: int = 0
    others: list[str] = field(default_factory=list)  # that take no GPU, but for graders

    def take(self, cpus: float, gpu: float, num_gpus: int = 1) -> list[int] | None:
        """Take a share of each of so many GPUs, if there is room: the numbers of the first that have enough left.

        None where the part has no place here; without GPUs for one that needs none.
        """
        free = [number for number, left in enumerate(self.gpus) if gpu and gpu <= left + ROUNDING][:num_gpus]
        if cpus > self.cpus + ROUNDING or (gpu and len(free) < num_gpus):
            return None
        self.cpus -= cpus
        for number in free:
            self.gpus[number] -= gpu
        return free


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """What the GPUs hold, and how fast that goes."""

    gpu: Gpu
    sampler: SamplerMemory | None  # None: samplers run on CPUs
    learner: Memory | None
    pace: Pace | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A configuration on machines."""

    config: Config  # with every share filled in
    seats: Sequence[Seats]
    on_gpus: GpuPlan | None  # None where there are no GPUs in use, or nobody knows their memory
    advice: Sequence[str]


def make_plan(config: Config, shape: ModelShape, machines: Sequence[Machine]) -> Plan:
    """Place every part; raises ResourcesError, with the arithmetic, where one does not fit.

    Raises ModelError for a model that cannot be split over as many GPUs as is asked for.
    """
    check_split(config.model.path, config.rollout.tensor_parallel_size, heads=shape.heads, kv_heads=shape.kv_heads)
    placed = place(config, totals(machines), num_machines=sum(machine.cpus > 0 for machine in machines))
    seats = _seat(placed, machines)
    on_gpus = _on_gpus(placed, shape, machines)
    advice = _growth_advice(placed, seats)
    if on_gpus is not None:
        advice += [*_memory_advice(placed, on_gpus), *_pace_advice(placed, on_gpus.pace)]
    return Plan(config=placed, seats=seats, on_gpus=on_gpus, advice=advice)


def _seat(config: Config, machines: Sequence[Machine]) -> list[Seats]:
    """Each part where there is room: the learner first, then samplers; graders rather where there are no GPUs."""
    seats = [
        Seats(
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
        _place(seats, name, learner.cpus, learner.gpus)
    _fill(range(rollout.num_samplers), lambda number: _place_sampler(seats, rollout, number), minimum=rollout.minimum)
    _fill(range(grader.num_graders), lambda number: _place_grader(seats, grader, number), minimum=grader.minimum)
    return seats


def _fill(numbers: range, place_one: Callable[[int], None], *, minimum: int = 0) -> None:
    """Place parts until one has no place. Raises ResourcesError below ``floor``; those above it start when there is room."""
    for number in numbers:
        try:
            place_one(number)
        except ResourcesError:
            if number < minimum:
                raise
            return


def _place_sampler(seats: Sequence[Seats], rollout: RolloutSettings, number: int) -> None:
    ranks = rollout.tensor_parallel_size
    seat = _place(seats, f"sampler {number}", rollout.cpus_per_sampler, rollout.gpus_per_sampler, num_gpus=ranks)
    seat.num_samplers += 1


def _place_grader(seats: Sequence[Seats], grader: GraderSettings, number: int) -> None:
    """Evenly over the machines without a GPU; Ray, too, keeps what needs none away from the others while it can."""
    free = sorted(seats, key=lambda seat: (seat.machine.num_gpus > 0, -seat.cpus))
    seat = next((seat for seat in free if seat.take(grader.cpus_per_grader, 0.0) is not None), None)
    if seat is None:
        raise _no_place(seats, f"grader {number}", grader.cpus_per_grader, 0.0)
    seat.num_graders += 1


def _place(seats: Sequence[Seats], name: str, cpus: float, gpu: float, *, num_gpus: int = 1) -> Seats:
    """Place one part on the first machine that has room for it, and put its name down there; returns that machine."""
    for seat in seats:
        on_gpus = seat.take(cpus, gpu, num_gpus)
        if on_gpus is None:
            continue
        for number in on_gpus:
            seat.on_gpus[number].append(name if gpu == 1 else f"{name} ({gpu:g})")
        if not on_gpus:
            seat.others.append(name)
        return seat
    raise _no_place(seats, name, cpus, gpu * num_gpus if gpu else 0.0)


def _no_place(seats: Sequence[Seats], name: str, cpus: float, gpus: float) -> ResourcesError:
    left = "; ".join(
        f"{seat.machine.name}: {seat.cpus:g} CPU" + "".join(f", {gpu:g} GPU" for gpu in seat.gpus) for seat in seats
    )
    return ResourcesError(
        f"{name} needs {cpus:g} CPU and {gpus:g} GPU on one machine, and after the parts before it there is left: {left}. "
        "Lower what the parts take (rollout.gpus_per_sampler, learner.gpus, *.cpus...) or their numbers, or add machines"
    )


def _on_gpus(config: Config, shape: ModelShape, machines: Sequence[Machine]) -> GpuPlan | None:
    """Check memory on the smallest GPU there is: any part may come to lie on it."""
    kinds = [machine.gpu for machine in machines if machine.gpu is not None and machine.gpu.gib is not None]
    if not kinds or not (config.rollout.gpus_per_sampler or config.learner.gpus):
        return None
    gpu = min(kinds, key=lambda kind: kind.gib or 0.0)
    gib = gpu.gib or 0.0
    sampler = sampler_memory(config, shape, gib) if config.rollout.gpus_per_sampler else None
    shared = 0 < config.rollout.gpus_per_sampler < 1 and 0 < config.learner.gpus < 1
    of_the_samplers = sampler.limit if sampler and shared else 0.0
    learner = learner_memory(config, shape, gib - of_the_samplers) if config.learner.gpus else None
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
            "rollout.max_completion_tokens, max_concurrent_requests or the model, or policy_swap=merged, which holds no adapters"
        )
    if learner is not None and learner.total > learner.limit:
        raise ResourcesError(
            f"the learner does not fit on a {_smallest(plan)}: it takes {_sum(learner)}, and has {learner.limit:.1f} GiB. Lower "
            "learner.micro_batch_tokens (activations and logits go with it), set learner.gradient_checkpointing=true, lower "
            "rollout.gpu_memory_utilization where they share a GPU, or spread the weights over ranks with learner.shard_base"
        )


def _smallest(plan: GpuPlan) -> str:
    return f"{plan.gpu.name} (the smallest GPU: any part may come to lie on it)"


def _sum(memory: Memory) -> str:
    return " + ".join(f"{name} {gib:.1f}" for name, gib in memory.parts.items()) + f" = {memory.total:.1f} GiB"


def _growth_advice(config: Config, seats: Sequence[Seats]) -> list[str]:
    """How much of what samplers or graders may grow to has a place on these machines, beside all that starts there."""
    rollout, grader = config.rollout, config.grader
    grown = deepcopy(seats)
    num_samplers, num_graders = sum(seat.num_samplers for seat in seats), sum(seat.num_graders for seat in seats)
    _fill(range(num_samplers, rollout.maximum), lambda number: _place_sampler(grown, rollout, number))
    advice = _growth("sampler", "rollout.max_samplers", rollout.max_samplers, sum(seat.num_samplers for seat in grown))
    grown = deepcopy(seats)
    _fill(range(num_graders, grader.maximum), lambda number: _place_grader(grown, grader, number))
    return advice + _growth("grader", "grader.max_graders", grader.max_graders, sum(seat.num_graders for seat in grown))


def _growth(part: str, key: str, wanted: int | None, fitting: int) -> list[str]:
    if wanted is None:
        return []
    rest = "" if fitting == wanted else " at most; more start where machines join"
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
        return ["What these GPUs can do is not known here, so that no pace is estimated."]
    advice = []
    if speed.bottleneck == "learning":
        advice.append(
            f"The learner is waited for: sampling takes {speed.sampling:.1f} s of a step, learning {speed.learning:.1f} s. "
            "Add ranks (learner.num_ranks) before samplers."
        )
    elif speed.bottleneck == "sampling":
        balanced = math.ceil(config.rollout.num_samplers * speed.sampling / max(speed.learning, speed.grading))
        advice.append(
            f"The samplers are waited for: sampling takes {speed.sampling:.1f} s of a step, learning {speed.learning:.1f} s. "
            f"{count(balanced, 'sampler')} would keep pace."
        )
    else:
        advice.append(
            f"The graders may be waited for: up to {speed.grading:.1f} s of a step. Add graders and machines for them."
        )
    # More samplers share the same completions: fewer run at a time on each, for hardly less time.
    if speed.overlaps and speed.sampling < BUSY_SHARE * speed.step and config.rollout.num_samplers > 1:
        fewer = math.ceil(config.rollout.num_samplers * speed.sampling / speed.step / BUSY_SHARE)
        advice.append(f"{count(fewer, 'sampler')} would do, with more completions at a time on each.")
    rollouts = max(speed.sampling, speed.grading)
    if not speed.overlaps and min(rollouts, speed.learning) > 0.2 * speed.step:
        advice.append("Samplers and learner wait for one another: with loop.max_staleness=1 they work side by side.")
    enough = math.ceil(config.grader.num_graders * speed.grading / speed.step / BUSY_SHARE)
    if enough < config.grader.num_graders:
        advice.append(f"{count(enough, 'grader')} would do.")
    return advice
