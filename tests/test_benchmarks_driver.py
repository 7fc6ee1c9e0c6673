"""The benchmark of the driver, at its smallest size."""

import asyncio
import io

import pytest
from rich.console import Console

from benchmarks.driver import Effort, Size, measure, tables
from benchmarks.driver_meter import Profile


@pytest.mark.slow
def test_a_small_measurement_runs_to_its_end() -> None:
    size = Size(tokens=32, group_size=8)
    effort = Effort(rounds=1, steps=1, completions_per_step=16)
    result = asyncio.run(measure([size], effort, Profile(), lambda _stage: None))
    [row] = result["sizes"]
    assert result["driver_ms_per_completion"] == {"32": row["cpu_ms"]}
    assert 0 < row["ledger_ms"] < row["main_thread_ms"] < row["cpu_ms"] == result["overhead_ms_per_completion"]
    assert row["calls"] > 1  # one for the grade, and a part of the group's
    assert min(row["bytes_sent"], row["bytes_received"]) > 32
    printed = io.StringIO()
    console = Console(file=printed, width=80)
    for table in tables(result):
        console.print(table)
    assert "Ray's own threads" in printed.getvalue()


def test_the_cpu_time_of_the_main_thread_is_shared_out_by_its_samples() -> None:
    profile = Profile()
    profile.samples.update({("f", "ray"): 3, ("g", "re"): 1})
    assert profile.largest(2, main_ms=2.0, other_ms=1.0) == [("f", "ray", 1.5), ("", "Ray's own threads", 1.0)]
