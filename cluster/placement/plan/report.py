"""``caravan plan``: the printed plan."""

from collections.abc import Sequence

from rich.table import Table

from cluster.config.config import Config
from cluster.config.initial_adapter import with_initial_adapter
from cluster.config.method import FULL
from cluster.config.model_path import check_model_path, model_path
from cluster.console import count, output
from cluster.errors import ResourcesError
from cluster.placement.plan.gpu_plan import GpuPlan
from cluster.placement.plan.learner_memory import training_state
from cluster.placement.plan.machines import Machine
from cluster.placement.plan.memory import Memory
from cluster.placement.plan.model_shape import BYTES, GIB, shape_of, trained_size
from cluster.placement.plan.places import Plan, PlannedNode, make_plan


def plan_and_report(config: Config, machines: Sequence[Machine]) -> int:
    """Print the plan; returns the exit code.

    Raises ResourcesError if a part does not fit, ConfigError for adapter targets that the model lacks, and ModelError.
    """
    check_model_path(config)
    config = with_initial_adapter(config)
    plan = make_plan(config, shape_of(model_path(config)), machines)
    size = trained_size(config)
    print_plan(plan)
    output().print(str(size), soft_wrap=True, highlight=False, markup=False)
    if config.learner.method == FULL:
        output().print(_training_state_line(config, size.num_parameters), soft_wrap=True, highlight=False)
    if plan.shortages:
        raise ResourcesError(f"by estimate, {count(len(plan.shortages), 'part')} of the run will not fit: see above")
    return 0


def _training_state_line(config: Config, num_parameters: int) -> str:
    """A line about the memory that training all weights takes on each rank, and a published policy on each sampler's machine."""
    state = training_state(config, num_parameters)
    place = "GPU" if config.learner.gpus else "main memory"
    policy = BYTES[config.rollout.served_dtype] * num_parameters / GIB
    return (
        f"The learner keeps {_gib(sum(state.values()))} in its {place}: "
        f"{', '.join(f'{name} {_gib(size)}' for name, size in state.items())}. A policy takes {_gib(policy)}; during a weight "
        "sync the shared memory of each machine with samplers holds two."
    )


def _gib(size: float) -> str:
    return f"{size:.2g} GiB"


def print_plan(plan: Plan) -> None:
    """Print placement, GPU memory, pace and advice."""
    console = output()
    console.print(_placement_table(plan))
    if plan.on_gpus is not None:
        console.print(_memory_table(plan.on_gpus))
        if plan.on_gpus.pace is not None:
            console.print(_pace_line(plan.on_gpus), soft_wrap=True, highlight=False)
    elif any(node.machine.num_gpus for node in plan.nodes):
        console.print("No part uses a GPU of known memory: memory and pace are not estimated.", highlight=False)
    if plan.filled_in is not None:
        console.print(plan.filled_in, soft_wrap=True, highlight=False)
    for line in plan.shortages:
        console.print(f"- Does not fit, by estimate: {line}.", soft_wrap=True, highlight=False)
    for line in plan.advice:
        console.print(f"- {line}", soft_wrap=True, highlight=False)


def _placement_table(plan: Plan) -> Table:
    ray_decides = "Where a part fits on several machines, Ray decides."
    table = Table(title="Placement", caption=ray_decides if len(plan.nodes) > 1 else None)
    for column in ("machine", "GPUs", "other parts", "CPUs left"):
        table.add_column(column)
    for node in plan.nodes:
        table.add_row(
            node.machine.name,
            _gpus(node),
            _others(node),
            f"{round(node.cpus, 2):g} of {node.machine.cpus:g}",
        )
    return table


def _gpus(node: PlannedNode) -> str:
    kind = f" {node.machine.gpu.name}" if node.machine.gpu else ""
    lines = [f"{number}{kind}: {' + '.join(names) or 'free'}" for number, names in enumerate(node.on_gpus)]
    return "\n".join(lines) or "none"


def _others(node: PlannedNode) -> str:
    graders = [count(node.num_graders, "grader")] if node.num_graders else []
    return ", ".join([*node.others, *graders]) or "nothing"


def _memory_table(plan: GpuPlan) -> Table:
    table = Table(title=f"Memory of one {plan.gpu.name} ({plan.gib:.1f} GiB), estimated in GiB", caption=_sharing(plan))
    table.add_column("")
    columns: list[tuple[str, Memory]] = []
    if plan.sampler is not None:
        columns.append(("sampler", plan.sampler))
    if plan.learner is not None:
        columns.append(("learner", plan.learner))
    for name, _ in columns:
        table.add_column(name, justify="right")
    names = list(dict.fromkeys(part for _, memory in columns for part in memory.parts))
    for part in names:
        table.add_row(part, *(f"{memory.parts[part]:.1f}" if part in memory.parts else "" for _, memory in columns))
    if plan.sampler is not None:
        sequences = count(int(plan.sampler.num_sequences), "completion")
        cache = f"{max(0.0, plan.sampler.cache):.1f}, {sequences} of full length"
        table.add_row("KV cache", *(cache if name == "sampler" else "" for name, _ in columns))
    table.add_section()
    table.add_row("may take", *(f"{memory.limit:.1f}" for _, memory in columns))
    return table


def _sharing(plan: GpuPlan) -> str | None:
    """A line on the parts that share a GPU; None if none do."""
    if plan.sampler is None:
        return None
    number, limit = plan.samplers_with_learner, plan.sampler.limit
    if plan.learner is not None and number:
        samplers = count(number, "sampler")
        return f"The learner's GPU also holds {samplers}: {number} x {limit:.1f} = {number * limit:.1f} GiB."
    number = plan.samplers_together
    return f"{number} samplers share a GPU: {number} x {limit:.1f} = {number * limit:.1f}." if number > 1 else None


def _pace_line(plan: GpuPlan) -> str:
    speed = plan.pace
    assert speed is not None
    order = "at the same time" if speed.overlaps else "one after the other"
    return (
        f"A step takes about {speed.step:.1f} s, limited by {speed.bottleneck}: sampling {speed.sampling:.1f} "
        f"({count(speed.num_running, 'concurrent completion')} per engine), grading up to {speed.grading:.1f}, learning "
        f"{speed.learning:.1f}, driving {speed.driving:.1f}; samplers and learner work {order}. "
        f"The driver keeps up with {count(speed.fed_samplers, 'such sampler')}. "
        "Estimated from data sheets, for prompts and completions of half the longest length."
    )
