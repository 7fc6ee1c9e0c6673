"""GPU memory and pace of a placed run.

A run that certainly does not fit is refused; a run that does not fit by estimate is reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.config.config import Config
from cluster.config.method import FULL
from cluster.console import count
from cluster.errors import ResourcesError
from cluster.placement.plan.gpu_defaults import with_micro_batch, with_prefill
from cluster.placement.plan.learner_memory import learner_memory
from cluster.placement.plan.machines import Gpu, Machine
from cluster.placement.plan.memory import Memory, SamplerMemory, sampler_memory
from cluster.placement.plan.model_shape import GIB, ModelShape
from cluster.placement.plan.pace import Pace, SharedGpu, pace
from cluster.placement.plan.sharing import samplers_per_gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """Memory and pace of the parts on GPUs, by the smallest GPU: any part may be placed on it."""

    config: Config  # with the sizes that follow from the GPU's memory
    gpu: Gpu
    gib: float  # memory of the GPU
    sampler: SamplerMemory | None  # None: samplers run on CPUs
    learner: Memory | None
    samplers_with_learner: int  # largest number of samplers on the GPU of the learner
    samplers_together: int  # largest number of samplers on a GPU without the learner
    pace: Pace | None
    overlapping: Pace | None  # the pace with loop.max_staleness=1; None for a run that has it


def known_gpus(machines: Sequence[Machine]) -> list[tuple[Gpu, float]]:
    """Each GPU of the machines whose memory is known, with its GiB."""
    return [
        (machine.gpu, machine.gpu.gib)
        for machine in machines
        if machine.gpu is not None and machine.gpu.gib is not None
        for _ in range(machine.num_gpus)
    ]


def plan_gpus(
    config: Config, shape: ModelShape, machines: Sequence[Machine], *, samplers_on_one: int
) -> GpuPlan | None:
    """Estimate memory and pace of a placed configuration; None if no GPU is used, or the memory of none is known.

    ``samplers_on_one``: largest number of samplers that are placed on one GPU.
    """
    gpus = known_gpus(machines)
    if not gpus or not (config.rollout.gpus_per_sampler or config.learner.gpus):
        return None
    gpu, gib = min(gpus, key=lambda pair: pair[1])
    config = with_prefill(config, gib)
    sampler = sampler_memory(config, shape, gib) if config.rollout.gpus_per_sampler else None
    with_learner = samplers_per_gpu(config, next_to_learner=True) if config.learner.gpus else 0
    left = gib - with_learner * (sampler.limit if sampler else 0.0)
    if config.learner.gpu_memory_share is not None:
        left = min(left, config.learner.gpu_memory_share * gib)
    config = with_micro_batch(config, shape, left)
    learner = learner_memory(config, shape, left) if config.learner.gpus else None
    speed = overlapping = None
    if sampler and learner and sampler.num_sequences >= 1:
        shared = SharedGpu(samplers=samplers_on_one, with_learner=with_learner > 0)
        cores = sum(machine.cpus for machine in machines)
        speed = pace(config, shape, gpu, sampler, shared, grading_cpus=cores)
        if config.loop.max_staleness == 0:
            stale = config.model_copy(update={"loop": config.loop.model_copy(update={"max_staleness": 1})})
            overlapping = pace(stale, shape, gpu, sampler, shared, grading_cpus=cores)
    return GpuPlan(
        config=config,
        gpu=gpu,
        gib=gib,
        sampler=sampler,
        learner=learner,
        samplers_with_learner=with_learner,
        samplers_together=samplers_per_gpu(config, next_to_learner=False),
        pace=speed,
        overlapping=overlapping,
    )


def require_fit(config: Config, shape: ModelShape, machines: Sequence[Machine]) -> None:
    """Raise ResourcesError if the sizes that are known exactly exceed the memory of the machines' GPUs.

    These are weights, adapter, gradient and the smallest possible KV caches of a placed configuration. Nothing is refused
    while the memory of a GPU is unknown.
    """
    gpus = [gib for _, gib in known_gpus(machines)]
    if not gpus or len(gpus) < sum(machine.num_gpus for machine in machines):
        return
    largest, rollout, learner = max(gpus), config.rollout, config.learner
    total, terms = 0.0, []
    if rollout.gpus_per_sampler:
        sampler = sampler_memory(config, shape, largest)
        _require_sampler(config, sampler, largest)
        number = rollout.minimum * rollout.tensor_parallel_size
        total += number * sampler.known
        terms.append(f"{number} x {sampler.known:.1f} (sampler: weights and the KV cache of one completion)")
    if learner.gpus:
        rank = learner_memory(config, shape, largest)
        if rank.known > largest:
            raise ResourcesError(
                f"the learner cannot run on these GPUs: {_known(config)} take {rank.known:.1f} GiB; the largest GPU has "
                f"{largest:.1f} GiB. To fit, {_advice(config)}, or use a smaller model"
            )
        total += learner.num_ranks * rank.known
        terms.append(f"{learner.num_ranks} x {rank.known:.1f} (learner: {_known(config)})")
    if total > sum(gpus):
        raise ResourcesError(
            f"the run cannot fit on {count(len(gpus), 'GPU')} with {sum(gpus):.1f} GiB: its parts take at least "
            f"{' + '.join(terms)} = {total:.1f} GiB. Add GPUs, lower rollout.num_samplers, or use a smaller model"
        )


def _advice(config: Config) -> str:
    """The change of settings with which the learner's weights fit."""
    if config.learner.method == FULL:
        return "train an adapter (learner.method=lora)"
    return "spread the weights over ranks with learner.shard_base"


def _known(config: Config) -> str:
    """The parts of the learner's memory that every rank keeps."""
    return "weights, gradients and optimizer" if config.learner.method == FULL else "weights, adapter and gradient"


def _require_sampler(config: Config, memory: SamplerMemory, largest: float) -> None:
    """Raise ResourcesError if no sampler can run on the largest GPU, of ``largest`` GiB."""
    rollout = config.rollout
    is_set = rollout.kv_cache_memory_bytes is not None
    if is_set and memory.num_sequences < 1:
        raise ResourcesError(
            f"rollout.kv_cache_memory_bytes={rollout.kv_cache_memory_bytes} is less than one completion of full length needs "
            f"({int(memory.gib_per_sequence * GIB)}): raise it, or lower rollout.max_completion_tokens"
        )
    # An engine alone on its GPU refuses to start above gpu_memory_utilization; one that shares a GPU gets an explicit cache.
    limit = memory.limit if rollout.gpus_per_sampler == 1 and not is_set else largest
    if memory.known > limit:
        weights = memory.parts["weights"]
        more = "raise rollout.gpu_memory_utilization, " if limit < largest else ""
        if is_set and weights < limit:
            more = "lower rollout.kv_cache_memory_bytes, "
        raise ResourcesError(
            f"a sampler cannot run on these GPUs: weights {weights:.1f} GiB and KV cache {memory.known - weights:.1f} GiB exceed "
            f"the {limit:.1f} GiB that it may take of the largest GPU ({largest:.1f} GiB). Split it over several GPUs "
            f"(rollout.tensor_parallel_size), {more}or use a smaller model"
        )


def shortages(config: Config, plan: GpuPlan) -> list[str]:
    """A line for each part that does not fit by the estimates."""
    return [
        line for line in (_sampler_shortage(config, plan), _sharing_shortage(plan), _learner_shortage(plan)) if line
    ]


def _sampler_shortage(config: Config, plan: GpuPlan) -> str | None:
    sampler = plan.sampler
    if sampler is None or sampler.num_sequences >= 1:
        return None
    return (
        f"a sampler does not fit on a {_smallest(plan)}: of {sampler.limit:.1f} GiB (rollout.gpu_memory_utilization="
        f"{config.rollout.gpu_memory_utilization:g} of {plan.gib:g} GiB) it takes {_sum(sampler)}, and the KV "
        f"cache of one completion {sampler.gib_per_sequence:.1f} GiB. Give it more of a GPU, lower "
        "rollout.max_completion_tokens, max_concurrent_requests or max_num_batched_tokens (activations go with it), or use "
        "a smaller model or weight_sync_mode=merged (no adapters)"
    )


def _sharing_shortage(plan: GpuPlan) -> str | None:
    """A line if the samplers that may share a GPU take more than it has."""
    sampler, number = plan.sampler, plan.samplers_together
    if sampler is None or number * sampler.limit <= plan.gib:
        return None
    return (
        f"{count(number, 'sampler')} may share a {_smallest(plan)}, and take {number} x {sampler.limit:.1f} = "
        f"{number * sampler.limit:.1f} of {plan.gib:.1f} GiB: lower rollout.gpu_memory_utilization to at most "
        f"{1 / number:.2g}, or raise rollout.gpus_per_sampler"
    )


def _learner_shortage(plan: GpuPlan) -> str | None:
    learner, sampler, number = plan.learner, plan.sampler, plan.samplers_with_learner
    if learner is None or learner.total <= learner.limit:
        return None
    left = f"{learner.limit:.1f} GiB"
    if number and sampler is not None:
        left += f" of {plan.gib:.1f} GiB, next to {count(number, 'sampler')} with {number * sampler.limit:.1f} GiB"
    share = plan.config.learner.gpu_memory_share
    raise_share = "Lower " if number or share is None else f"Raise learner.gpu_memory_share={share:g}, or lower "
    return (
        f"the learner does not fit on a {_smallest(plan)}: it takes {_sum(learner)}, and has {left}. {raise_share}"
        "learner.micro_batch_tokens (activations go with it), set learner.gradient_checkpointing=true, lower "
        f"rollout.gpu_memory_utilization where they share a GPU, or {_advice(plan.config)}"
    )


def _smallest(plan: GpuPlan) -> str:
    return f"{plan.gpu.name} (the smallest GPU: any part may be placed on it)"


def _sum(memory: Memory) -> str:
    return " + ".join(f"{name} {gib:.1f}" for name, gib in memory.parts.items()) + f" = {memory.total:.1f} GiB"
