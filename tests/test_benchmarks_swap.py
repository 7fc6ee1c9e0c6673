"""Results that the swap benchmark computes from measurements."""

import io

from rich.console import Console

from benchmarks.swap import percentiles, tables


def test_the_95th_percentile_leaves_one_in_twenty_above() -> None:
    found = percentiles([number / 1000 for number in range(100, 0, -1)])
    assert (found["p50_ms"], found["p95_ms"]) == (50.5, 96.0)
    assert percentiles([0.25]) == {"p50_ms": 250.0, "p95_ms": 250.0}


def test_the_tables_fit_a_terminal() -> None:
    row = {
        "idle": percentiles([0.01]),
        "busy": percentiles([0.02]),
        "tokens_per_second": 1000.0,
        "tokens_per_second_with_swaps": 900.0,
    }
    printed = io.StringIO()
    console = Console(file=printed, width=80)
    for table in tables({"model": "tiny", "swap": {"in_flight": row}, "live": {"1": 0.02, "4": 0.03}}):
        console.print(table)
    text = printed.getvalue()
    assert "…" not in text
    assert "90%" in text
    assert "30.0 ms (1.50x)" in text
