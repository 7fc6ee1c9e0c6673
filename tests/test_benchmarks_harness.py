"""Tests of the shared parts of the benchmarks."""

import json

import pytest
from rich.table import Table

from benchmarks.harness import Log, measure_and_print, option_parser, percentile, ratios_by_round, rotated


def test_each_round_begins_with_the_next_contestant() -> None:
    assert [rotated("abc", number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_ratios_are_taken_within_rounds() -> None:
    assert ratios_by_round([8.0, 1.0], [2.0, 2.0]) == [0.5, 4.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios_by_round([1.0, 2.0], [1.0])


def test_a_percentile_leaves_its_share_below() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(range(100, 0, -1), 0.99) == 100
    assert percentile([7.0], 0.99) == 7.0


def test_the_last_line_is_the_result_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    def measure(log: Log) -> dict[str, float]:
        log("measuring")
        return {"ratio": 2.0}

    def tables(result: dict[str, float]) -> list[Table]:
        table = Table(title=f"ratio {result['ratio']}")
        table.add_row("a row")
        return [table]

    measure_and_print(measure, tables)
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == {"ratio": 2.0}
    assert any("ratio 2.0" in line for line in lines[:-1])


def test_the_help_names_the_make_target_and_the_first_line_of_the_description() -> None:
    shown = option_parser("bench-x", "Measures x.\n\nMore.").format_help()
    assert "make bench-x" in shown
    assert "Measures x." in shown
    assert "More." not in shown
