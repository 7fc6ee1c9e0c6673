"""``caravan health`` on folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import main
from cluster.ledger.run_folder import RunFolder
from tests.cluster.baseline_analyses import FIRST_LOG
from tests.cluster.health.test_rules import steps


def run_of(path: Path, rows: list[dict[str, Any]]) -> RunFolder:
    path.mkdir(exist_ok=True)
    folder = RunFolder(path)
    folder.append_json(folder.metrics, *rows)
    return folder


@pytest.mark.parametrize(
    ("metrics", "num", "code", "health"),
    [
        ({}, 100, 0, "ok"),
        ({"frac_truncated": 0.9}, 50, 3, "warn"),
        ({"pass_rate": 0.0}, 120, 4, "stop"),
        ({}, 3, 5, "not-enough-data"),
    ],
)
def test_the_exit_status_follows_from_the_health(
    metrics: dict[str, Any], num: int, code: int, health: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_of(tmp_path, steps(num, **metrics))
    assert main(["health", str(tmp_path), "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert (report["health"], report["step"]) == (health, num)
    assert all(one["source"] and one["threshold"] for one in report["findings"])


def test_the_text_has_evidence_action_and_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path, steps(50, frac_truncated=0.85))
    assert main(["health", str(tmp_path)]) == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "85% of completions hit the length limit" in shown
    assert "grader.runaway_multiplier=0" in shown
    assert "fix-filibuster-training.md" in shown


def test_the_learning_log_of_another_trainer_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "learning.log").write_text(f"{'=' * 80}\nGRPO Training\n\n{FIRST_LOG}", encoding="utf-8")
    assert main(["health", str(tmp_path), "--json"]) == 3
    found = {one["rule"]: one["health"] for one in json.loads(capsys.readouterr().out)["findings"]}
    assert found["mode_collapse"] == found["reward_level"] == "warn"


def test_an_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    folder = run_of(tmp_path, steps(50))
    with folder.metrics.open("a") as file:
        file.write('{"step": 51, "rew')
    assert main(["health", str(tmp_path), "--json"]) == 0


def test_a_line_that_cannot_be_read_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_of(tmp_path, steps(5))
    folder.append(folder.metrics, "nonsense")
    assert main(["health", str(tmp_path)]) == 1
    assert "metrics.jsonl, line 6" in capsys.readouterr().err


def test_a_change_of_settings_restarts_the_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_of(tmp_path, steps(50, frac_truncated=0.9) + steps(20, first=51))
    folder.append_json(folder.phases, {"step": 50, "set": {"rollout.temperature": 1.1}})
    assert main(["health", str(tmp_path), "--json"]) == 0


def test_a_step_that_the_learner_refused_stops_the_run_until_it_is_taken(tmp_path: Path) -> None:
    run_of(tmp_path, steps(50))
    (tmp_path / "diverged").mkdir()
    (tmp_path / "diverged" / "step-000051.parquet").touch()
    assert main(["health", str(tmp_path), "--json"]) == 4
    run_of(tmp_path, steps(5, first=51))  # the run continued
    assert main(["health", str(tmp_path), "--json"]) == 0


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", str(tmp_path / "nothing")]) == 1
    assert "no run started there" in capsys.readouterr().err
