"""The schedules of both training analyses, and a ramp, in real runs: the settings of a phase apply from its first step."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

from cluster.config.schedule import PRESETS
from cluster.ledger.rows import facts_of
from cluster.problems.builtin import builtin_problems
from grader.reward import profile_of, score
from grader.settings import GraderSettings
from tests.test_run import command, completed, rows

pytestmark = pytest.mark.long

WEIGHTS = [
    {"structural": 0.10, "type_check": 0.40, "compile": 0.30, "tests": 0.20},
    {"structural": 0.05, "type_check": 0.25, "compile": 0.20, "tests": 0.50},
    {"structural": 0.05, "type_check": 0.20, "compile": 0.10, "tests": 0.65},
]


def phased_run(runs: Path, name: str, *settings: str, num_problems: int = 8) -> Path:
    """A synchronous run of steps of four problems, on so few training problems that epochs pass quickly."""
    data = runs / "problems.jsonl"
    some = builtin_problems()[:: len(builtin_problems()) // (num_problems + 2)][: num_problems + 2]
    data.write_text(
        "".join(f"{json.dumps({'id': each.id, 'prompt': each.prompt, 'tests': each.tests})}\n" for each in some)
    )
    small = (f"dataset={data}", "held_out=2", "evaluation.num_problems=0", "max_staleness=0", f"run.name={name}")
    completed(command(runs, *small, *settings))
    return runs / name


def changes(run: Path) -> list[tuple[int, dict[str, Any]]]:
    return [(row["step"], row["set"]) for row in rows(run / "phases.jsonl")]


def ledger(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.dataset.dataset(run / "rollouts", format="parquet").to_table().to_pylist()
    return rows


def rewards(run: Path, weights: Sequence[dict[str, float]]) -> list[tuple[int, float, float]]:
    """Step, stored reward, and reward computed from the facts with the step's weights, of each graded completion."""
    profiles = [profile_of(GraderSettings.model_validate({"min_code_lines": 1, "weights": each})) for each in weights]
    return [
        (row["step"], row["total_reward"], score(facts_of(row), profiles[row["step"] - 1]).reward)
        for row in ledger(run)
        if row["verdict"] is not None
    ]


def test_staged_rewards_change_the_weights_and_a_ramp_changes_sampler_and_learner_at_every_step(
    tmp_path: Path,
) -> None:
    ramp = {"from_epoch": 1.5, "ramp": True, "set": {"learner.learning_rate": 4.0e-3, "rollout.temperature": 0.4}}
    schedule = json.dumps([*PRESETS["staged-rewards"], ramp])
    run = phased_run(tmp_path, "staged", f"schedule={schedule}", "learning_rate=1e-3", "temperature=1.0", "max_steps=5")
    metrics = rows(run / "metrics.jsonl")
    assert [row["epoch"] for row in metrics] == [0.5, 1.0, 1.5, 2.0, 2.5]

    prefix = "grader.weights."
    set_after = {
        step: {key.removeprefix(prefix): value for key, value in keys.items() if key.startswith(prefix)}
        for step, keys in changes(run)
    }
    assert set_after == {
        0: WEIGHTS[0],
        1: {"structural": 0.05, "type_check": 0.25, "compile": 0.20, "tests": 0.50},
        2: {"type_check": 0.20, "compile": 0.10, "tests": 0.65},  # the marker's weight stays
        3: {},  # the end of the ramp
    }
    first, second, third = WEIGHTS
    scored = rewards(run, [first, second, third, third, third])
    assert {step for step, _, _ in scored} == {1, 2, 3, 4, 5}
    assert all(stored == pytest.approx(expected) for _, stored, expected in scored)
    # The weights of other steps give other rewards, but not in every step: a passing completion has reward 1 under all.
    for other in ([second, third, first, first, first], [third, first, second, second, second]):
        assert any(stored != pytest.approx(wrong) for _, stored, wrong in rewards(run, other))

    temperatures = {row["step"]: row["temperature"] for row in ledger(run)}
    assert temperatures == pytest.approx({1: 1.0, 2: 0.8, 3: 0.6, 4: 0.4, 5: 0.4})
    rates = [row["learning_rate"] for row in metrics]
    assert rates == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 4e-3])


def test_the_two_phases_of_the_second_analysis_explore_for_three_epochs_and_then_refine(tmp_path: Path) -> None:
    run = phased_run(tmp_path, "explore", "schedule=explore-refine", "max_steps=5", num_problems=4)
    assert PRESETS["explore-refine"][1]["from_epoch"] == 3.0
    assert [row["epoch"] for row in rows(run / "metrics.jsonl")] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert changes(run) == [
        (0, {"learner.kl_coefficient": 0.05, "rollout.temperature": 1.3}),
        (3, {"learner.kl_coefficient": 0.1, "rollout.temperature": 1.0}),
    ]
    assert sorted({(row["step"], row["temperature"]) for row in ledger(run)}) == [
        (1, 1.3), (2, 1.3), (3, 1.3), (4, 1.0), (5, 1.0)
    ]  # fmt: skip
    for row in rows(run / "metrics.jsonl"):
        expected = 0.05 if row["step"] <= 3 else 0.1
        assert row["in_force"] == {"kl_coefficient": expected}
        assert row["kl_coefficient"] == expected
        assert row["kl"] >= 0
