"""Results that the benchmarks of sampling and of GRPO steps compute from measurements."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.contestants import Contestant, ContestError, Link
from benchmarks.rollout import SETTLING_STEPS, sampling_measurements, step_measurements
from benchmarks.rollout_tables import tables


def turn_of(seconds: float, *lengths: int, first_token: int = 0) -> dict[str, Any]:
    """A contestant's turn in a round, with completions of these lengths."""
    sampled = {f"c{number}": (first_token, *range(1, length)) for number, length in enumerate(lengths)}
    return {"seconds": seconds, "sampled": sampled, "num_tokens": sum(lengths), "cpu_seconds": 2 * seconds}


def test_ratios_are_taken_within_a_round_so_that_a_slow_minute_hits_both() -> None:
    rounds = [
        {"vLLM": turn_of(1.0, 60, 40), "Caravan": turn_of(1.0, 60, 40)},
        {"vLLM": turn_of(10.0, 60, 40), "Caravan": turn_of(8.0, 60, 40)},  # the machine was busy
        {"vLLM": turn_of(1.0, 60, 40), "Caravan": turn_of(2.0, 60, 40)},
    ]
    measurements = sampling_measurements(rounds)
    assert measurements["vLLM"]["tokens_per_second"] == 100
    assert measurements["vLLM"]["ratio"] == 1
    assert measurements["Caravan"]["ratio"] == 1
    assert (measurements["Caravan"]["lowest_ratio"], measurements["Caravan"]["highest_ratio"]) == (0.5, 1.25)
    assert measurements["Caravan"]["cpu_ratio"] == pytest.approx(11 / 12)
    assert measurements["Caravan"]["completions_per_second"] == 1


def test_completions_count_as_the_same_if_all_their_tokens_are_equal() -> None:
    rounds = [{"vLLM": turn_of(1.0, 5, 5), "Caravan": turn_of(1.0, 5, 5)}]
    assert sampling_measurements(rounds)["Caravan"]["same_completions"] == 1
    rounds = [{"vLLM": turn_of(1.0, 5, 5), "Caravan": turn_of(1.0, 5, 5, first_token=9)}]
    assert sampling_measurements(rounds)["Caravan"]["same_completions"] == 0


def steps(*seconds: float, size: int = 10) -> dict[str, Any]:
    """A run whose settling steps took very long."""
    done = [100.0 * (number + 1) for number in range(SETTLING_STEPS)]
    for took in seconds:
        done.append(done[-1] + took)
    return {"ended_at": done, "completions_per_step": size}


def test_steps_in_which_a_run_settles_are_not_counted() -> None:
    measurements = step_measurements([steps(2.0, 2.0, 5.0), steps(2.0, 2.0, 2.0)])
    assert measurements["steps"] == 6
    assert measurements["step_seconds"] == 2
    assert measurements["completions_per_second"] == 5
    assert measurements["completions_per_second_of_runs"] == pytest.approx(60 / 15)
    assert measurements["slowest_step_seconds"] == 5


def test_the_tables_fit_a_terminal() -> None:
    sampling = sampling_measurements(
        [{"vLLM": turn_of(1.0, 60, 40), "Caravan": {**turn_of(1.0, 60, 40), "driver_cpu_seconds": 0.001}}]
    )
    result = {
        "sampling": {
            "base": sampling,
            "adapter": sampling,
            "grading": {"driver_cpu_ms_per_completion": 1.0},
            "step_seconds": {"1": 0.01},
        },
        "steps": {"TRL, 1 thread": {**step_measurements([steps(2.0)]), "ratio": 1.0}},
    }
    printed = io.StringIO()
    console = Console(file=printed, width=80)
    for table in tables(result):
        console.print(table)
    text = printed.getvalue()
    assert "…" not in text
    assert "1.00x" in text


def count(link: Link, start: int) -> None:
    """A contestant that adds, and fails at 13."""

    def run_turn(turn: Any) -> dict[str, int]:
        if turn["number"] == 13:
            raise ValueError("thirteen\nand more")
        return {"sum": start + turn["number"]}

    link.serve(run_turn)


def test_a_contestant_returns_its_results_or_the_cause_of_its_failure(tmp_path: Path) -> None:
    with Contestant("adder", count, 40, log=tmp_path / "log") as adder:
        adder.wait_until_ready()
        result = adder.run_turn(60, number=2)
        assert result["sum"] == 42
        assert result["cpu_seconds"] >= 0
        with pytest.raises(ContestError, match="adder failed: ValueError: thirteen; see"):
            adder.run_turn(60, number=13)
    assert "and more" in (tmp_path / "log").read_text()
