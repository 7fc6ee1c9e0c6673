"""Schedules in real runs: both presets and a ramp. The settings of an entry apply from its first step."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
import yaml

from cluster.config.model_path import tiny_model_path
from cluster.config.schedule import PRESETS
from cluster.ledger.rows import facts_of
from cluster.problems.builtin import builtin_problems
from grader.reward import profile_of, score
from grader.settings import GraderSettings
from learner.adapter_folder import read_adapter
from tests.test_run import command, completed, rows

pytestmark = pytest.mark.long

WEIGHTS = [
    {"structural": 0.10, "type_check": 0.40, "compile": 0.30, "tests": 0.20},
    {"structural": 0.05, "type_check": 0.25, "compile": 0.20, "tests": 0.50},
    {"structural": 0.05, "type_check": 0.20, "compile": 0.10, "tests": 0.65},
]


def scheduled_run(runs: Path, name: str, *settings: str, num_problems: int = 8) -> Path:
    """A synchronous run with four problems per step and ``num_problems`` training problems: an epoch is one or two steps."""
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
    quantized = ("learner.quantization=fp8", "rollout.engine.stream_interval=2")
    steps = ("learning_rate=1e-3", "temperature=1.0", "max_steps=5")
    run = scheduled_run(tmp_path, "staged", f"schedule={schedule}", *steps, *quantized)
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
        2: {"type_check": 0.20, "compile": 0.10, "tests": 0.65},  # structural, unchanged, is not set again
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


def plain_adapter(folder: Path) -> Path:
    """An adapter of the tiny model as plain PEFT writes it, with another rank, scale and targets than the defaults."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    lora = LoraConfig(
        r=6,
        lora_alpha=5,
        use_rslora=True,
        target_modules=r".*\.(q_proj|down_proj)",
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model_path()), lora)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data *= 0.3
    adapted.save_pretrained(folder)
    return folder


def test_explore_refine_explores_for_three_epochs_and_then_refines_an_adapter(
    tmp_path: Path,
) -> None:
    adapter = plain_adapter(tmp_path / "made")
    run = scheduled_run(
        tmp_path,
        "explore",
        "schedule=explore-refine",
        "max_steps=5",
        "lora.r=6",
        "lora.alpha=5",
        f"learner.adapter={adapter}",
        num_problems=4,
    )
    lora = yaml.safe_load((run / "config.yaml").read_text())["learner"]["lora"]
    assert (lora["r"], lora["alpha"], lora["use_rslora"], lora["target_modules"]) == (
        6,
        5,
        True,
        ["q_proj", "down_proj"],
    )
    before, kept, trained = (read_adapter(each) for each in (adapter, run / "initial_adapter", run / "adapter"))
    assert kept.files == before.files
    assert trained.shapes == before.shapes
    # The first step's tokens were sampled from the adapter itself, not from the base model.
    assert rows(run / "metrics.jsonl")[0]["sampling/sampling_logp_difference/mean"] < 1e-4
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
