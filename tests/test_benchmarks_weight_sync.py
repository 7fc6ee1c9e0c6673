"""Results that the benchmarks of the weight sync compute from measurements."""

import io

import pytest
from rich.console import Console

from benchmarks import publish_stall, weight_sync_noise


def test_a_gap_counts_for_every_stage_that_it_overlaps() -> None:
    moments = [0.0, 1.0, 2.0, 5.0, 5.5, 6.0]
    assert publish_stall.largest_gaps(moments, [0.5, 2.5, 4.0, 6.0]) == [3.0, 3.0, 3.0]
    assert publish_stall.largest_gaps(moments, [0.0, 1.9, 5.2, 6.0]) == [1.0, 3.0, 0.5]


def test_noise_alone_is_not_refused_and_a_large_error_is() -> None:
    found = weight_sync_noise.simulate("student", 0.25, weight_sync_noise.BATCH)
    assert found["publishes"] == weight_sync_noise.BATCH
    assert found["refused"] == 0 < found["largest_share_of_tolerance"] < 1
    assert found["tolerance_to_noise"] == pytest.approx(2.5, abs=0.3)
    assert found["caught"]["1"] < 0.05 < 0.99 < found["caught"]["6"]


def test_the_tables_fit_a_terminal() -> None:
    stages = {"undisturbed_ms": 100.0, "load_ms": 200.0, "compare_ms": 300.0}
    simulated = {
        "refused": 0,
        "publishes": 20_000,
        "largest_share_of_tolerance": 0.5,
        "tolerance_to_noise": 2.4,
        "caught": {"1": 0.0, "2": 0.5, "4": 0.99, "6": 1.0},
    }
    tiny = {"b": 5e-6, "gap": 0.01, "moved": 0.02, "correlation": 0.5}
    printed = io.StringIO()
    console = Console(file=printed, width=80)
    for table in publish_stall.tables({"before": stages, "after": stages}):
        console.print(table)
    for table in weight_sync_noise.tables({"simulated": {"lognormal 25%": simulated}, "tiny": [tiny]}):
        console.print(table)
    text = printed.getvalue()
    assert "…" not in text
    assert "0 / 20,000" in text
