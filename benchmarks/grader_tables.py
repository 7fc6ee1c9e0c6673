"""Tables of ``make bench-grader``."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

TARGETS = {"A/C": (6.0, 8.0), "B/C": (3.5, 5.0)}  # required, aim


def tables(result: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a result of ``benchmarks.grader.run``."""
    return [_by_kind(result), _single_measurements(result)]


def _by_kind(result: Mapping[str, Any]) -> Table:
    table = Table(
        title=f"CPU ms per completion, {result['completions']} different ones of 40 to 60 lines",
        caption="A: ocamlc -c, ocamlc -o, run. B: one ocamlc -o, run, in memory. C: this grader.",
    )
    table.add_column("")
    for name in ("A", "B", "C", *TARGETS):
        table.add_column(name, justify="right")
    for name, row in {"mix": result["mix"], **result["kinds"]}.items():
        times = [f"{row[method]['cpu_ms']:.2f}" for method in "ABC"]
        table.add_row(name.replace("_", " "), *times, *(f"{row['ratio'][ratio]:.1f}x" for ratio in TARGETS))
    table.add_section()
    mix = result["mix"]
    table.add_row("mix, per second and core", *(f"{mix[method]['per_core']:.0f}" for method in "ABC"), "", "")
    table.add_row("mix, wall ms", *(f"{mix[method]['wall_ms']:.2f}" for method in "ABC"), "", "")
    table.add_row("required for the mix: at least", "", "", "", *(f"{least:g}x" for least, _ in TARGETS.values()))
    table.add_row("aim", "", "", "", *(f"{aim:g}x" for _, aim in TARGETS.values()))
    return table


def _single_measurements(result: Mapping[str, Any]) -> Table:
    latency, memory, two, limits = (result[key] for key in ("latency", "memory", "two_workers", "limit_bound"))
    table = Table(title="this grader", show_header=False)
    table.add_column("", ratio=2)
    table.add_column("", ratio=3)
    rows = {
        "wall time on the mix": (
            f"p50 {latency['p50_ms']:.2f} ms, p99 {latency['p99_ms']:.2f} ms, max {latency['max_ms']:.1f} ms; "
            f"p99 is {latency['p99_over_p50']:.1f} medians (under 10)"
        ),
        "the same, fastest grading of each completion": (
            f"p50 {latency['quiet_p50_ms']:.2f} ms, p99 {latency['quiet_p99_ms']:.2f} ms, "
            f"max {latency['quiet_max_ms']:.1f} ms; {latency['quiet_p99_over_p50']:.1f} medians"
        ),
        "memory of one worker": (
            f"{memory['pss_mib']:.1f} MiB PSS, {memory['rss_mib']:.1f} MiB RSS in {memory['num_processes']} processes "
            f"(under 60 MB); a second worker adds {memory['second_worker_pss_mib']:.1f} MiB PSS"
        ),
        "two workers against one": (
            f"{two['speedup']:.2f}x (at least 1.8x), best round {two['best_speedup']:.2f}x; {two['one_per_second']:.0f}/s "
            f"and {two['two_per_second']:.0f}/s; other processes used {two['cores_taken_by_others']:.2f} cores"
        ),
        "a completion whose asserts all loop": (
            f"{limits['cpu_ms']:.0f} ms CPU, {limits['wall_ms']:.0f} ms wall, at {limits['assert_cpu_seconds']:g} s "
            f"per assert and {limits['run_cpu_seconds']:g} s per completion"
        ),
        "start, first completion included": (
            f"{result['start']['wall_ms']:.0f} ms wall, {result['start']['cpu_ms']:.0f} ms CPU"
        ),
        **{key: str(value) for key, value in result["machine"].items()},
    }
    for key, value in rows.items():
        table.add_row(key, value)
    return table
