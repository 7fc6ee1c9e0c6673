"""Tables of ``make bench-rollout``."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return one table per comparison in a result of ``benchmarks.rollout.run``."""
    result_tables = []
    if "sampling" in result:
        result_tables.append(_sampling(result["sampling"]))
    if "steps" in result:
        result_tables.append(_steps(result["steps"]))
    return result_tables


def _sampling(found: Mapping[str, Any]) -> Table:
    table = Table(title="Sampling with one engine: tokens per second (required: at least 0.95x)")
    for name in ("", "", "tokens/s", "ratio", "lowest to highest", "CPU per token", "same tokens"):
        table.add_column(name, justify="right" if name else "left")
    for policy in ("base", "adapter"):
        for number, (name, row) in enumerate(found[policy].items()):
            table.add_row(
                policy if number == 0 else "",
                name,
                f"{row['tokens_per_second']:,.0f}",
                f"{row['ratio']:.2f}x",
                f"{row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f}",
                f"{row['cpu_ratio']:.2f}x",
                f"{row['same_completions']:.1%}",
            )
        table.add_section()
    steps = ", ".join(f"{1e3 * seconds:.1f} ms for {number}" for number, seconds in found["step_seconds"].items())
    ms = [row["driver_cpu_ms_per_completion"] for row in (found["adapter"]["Caravan"], found["grading"])]
    table.caption = (
        "Medians of alternating rounds on the same prompts, seeds and settings; ratios to vLLM within each round.\n"
        f"An engine step under the adapter: {steps}.\n"
        f"The driver's process: {ms[0]:.2f} CPU ms per sampled and {ms[1]:.2f} per graded completion."
    )
    return table


def _steps(found: Mapping[str, Any]) -> Table:
    table = Table(
        title="GRPO steps end to end: sample, grade, learn, publish (aim: above 3x)",
        caption="Medians over steps. TRL's GRPOTrainer generates with transformers and grades with three processes each.",
    )
    for name in ("", "compl./s", "whole runs", "s per step", "slowest", "to TRL"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in found.items():
        table.add_row(
            name,
            f"{row['completions_per_second']:.1f}",
            f"{row['completions_per_second_of_runs']:.1f}",
            f"{row['step_seconds']:.2f}",
            f"{row['slowest_step_seconds']:.2f}",
            f"{row['ratio']:.2f}x",
        )
    return table
