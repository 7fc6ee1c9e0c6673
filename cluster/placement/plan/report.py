"""``caravan plan``: the plan as a page to read."""

from collections.abc import Sequence

from rich.table import Table

from cluster.config.config import Config
from cluster.config.model_path import model_path
from cluster.console import count, output
from cluster.placement.plan.machines import Machine
from cluster.placement.plan.memory import Memory
from cluster.placement.plan.model_shape import shape_of, trainable_adapter
from cluster.placement.plan.places import GpuPlan, Plan, Seats, make_plan


def plan_and_report(config: Config, machines: Sequence[Machine]) -> int:
    """Print the plan; returns the exit code. Raises ResourcesError where something does not fit,
    ConfigError for targets of the adapter that the model has not."""
    plan = make_plan(config, shape_of(model_path(config)), machines)
    size = trainable_adapter(config)
    print_plan(plan)
    output().print(str(size), soft_wrap=True, highlight=False, markup=False)
    return 0


def print_plan(plan: Plan) -> None:
    """Print who goes where, what each GPU holds, the pace and the advice."""
    console = output()
    console.print(_seats_table(plan))
    if plan.on_gpus is not None:
        console.print(_memory_table(plan.on_gpus))
        if plan.on_gpus.pace is not None:
            console.print(_pace_line(plan.on_gpus), soft_wrap=True, highlight=False)
    elif any(seat.machine.num_gpus for seat in plan.seats):
        console.print("No part uses a GPU of known memory: nothing is estimated.", highlight=False)
    for line in plan.advice:
        console.print(f"- {line}", soft_wrap=True, highlight=False)


def _seats_table(plan: Plan) -> Table:
    table = Table(
        title="Who goes where", caption="As the parts find room; where several machines have it, Ray decides."
    )
    for column in ("machine", "GPUs", "other parts", "CPUs left"):
        table.add_column(column)
    for seat in plan.seats:
        table.add_row(seat.machine.name, _gpus(seat), _others(seat), f"{seat.cpus:g} of {seat.machine.cpus:g}")
    return table


def _gpus(seat: Seats) -> str:
    kind = f" {seat.machine.gpu.name}" if seat.machine.gpu else ""
    lines = [f"{number}{kind}: {' + '.join(names) or 'free'}" for number, names in enumerate(seat.on_gpus)]
    return "\n".join(lines) or "none"


def _others(seat: Seats) -> str:
    graders = [count(seat.num_graders, "grader")] if seat.num_graders else []
    return ", ".join([*seat.others, *graders]) or "nothing"


def _memory_table(plan: GpuPlan) -> Table:
    table = Table(title=f"Memory of one {plan.gpu.name} ({plan.gpu.gib:g} GiB), estimated in GiB")
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
        cache = f"{plan.sampler.cache:.1f}, {plan.sampler.num_sequences:.0f} completions of full length"
        table.add_row("KV cache", *(cache if name == "sampler" else "" for name, _ in columns))
    table.add_section()
    table.add_row("may take", *(f"{memory.limit:.1f}" for _, memory in columns))
    return table


def _pace_line(plan: GpuPlan) -> str:
    speed = plan.pace
    assert speed is not None
    side = "side by side" if speed.overlaps else "one after the other"
    return (
        f"A step takes about {speed.step:.1f} s: sampling {speed.sampling:.1f} ({speed.num_running} completions at a time per "
        f"engine), grading up to {speed.grading:.1f}, learning {speed.learning:.1f}; samplers and learner {side}. Estimated from "
        "data sheets, for prompts and completions of half the longest length."
    )
