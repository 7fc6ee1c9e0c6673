"""Health checks during a run: alerts, adjustments and stops, with and without an interruption."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import View
from cluster.health.checks import METRICS, check_run, worst
from cluster.health.history import History
from cluster.health.monitor import HealthMonitor, Response, monitor_of
from cluster.ledger.progress import Progress
from cluster.ledger.run_folder import RunFolder
from cluster.loop.driver import Driver
from cluster.loop.parts import Hooks, Pools, TrainingProblems
from cluster.problems.dataset import ProblemStream
from cluster.run.recorder import RunRecorder
from cluster.run.resume import resumed_config
from cluster.types import Completion, Prompt
from learner.fake import FakeLearner
from rollout.fake import FakeSamplerPool
from tests.cluster.health.test_rules import HEALTHY, steps
from tests.cluster.loop.test_driver import MemoryRecorder, ScriptedGraders
from tests.cluster.records import problem

SETTINGS = ("temperature=0.9", "group_size=6", "learning_rate=5e-6", "kl_coefficient=0.1")


def config(mode: str, *overrides: str) -> Config:
    return load_config(None, [f"on_unhealthy={mode}", *SETTINGS, *overrides], environment={})


class Run:
    """A run with a monitor as in the driver: adjustments and schedule entries apply from the next step on."""

    def __init__(self, config: Config, **so_far: Any) -> None:
        self.config = config
        self.steps: list[Any] = list(so_far.get("steps", ()))
        self.phases: list[Any] = list(so_far.get("phases", ()))
        self.health: list[Any] = list(so_far.get("health", ()))
        self.monitor = HealthMonitor(config, steps=self.steps, phases=self.phases, health=self.health)
        self.responses: list[Response] = []
        self._values: dict[str, Any] = {}
        self._settings = config
        self._apply_schedule(self.steps[-1]["step"] if self.steps else 0)

    def _apply_schedule(self, step: int) -> None:
        values = self.config.settings_schedule(self.monitor.adjustments).at(step=step, epoch=0.0)
        if values != self._values:
            if not any(row["step"] == step for row in self.phases):
                self.phases.append({"step": step, "set": values})
            self._values, self._settings = values, self.config.changed(values)

    def take_steps(self, rows: list[dict[str, Any]]) -> "Run":
        for row in rows:
            response = self.monitor.after_step(row, self._settings)
            self.steps.append(row)
            self.responses.append(response)
            self.health += [{"step": row["step"], **result.as_row()} for result in response.alerts]
            if response.mitigation:
                result = response.mitigation.alert
                self.health.append({"step": row["step"], **result.as_row(), "set": response.mitigation.values})
            self._apply_schedule(int(row["step"]))
        return self

    @property
    def adjustments(self) -> list[tuple[int, dict[str, Any]]]:
        return [(override.from_step, dict(override.set)) for override in self.monitor.adjustments]


COLLAPSED: dict[str, Any] = {
    "frac_zero_std_sampled": 0.5,
    "frac_zero_std": 0.5,
    "distinct_share_renamed": 0.3,
    "entropy": 0.12,
}


def test_a_repeated_alert_is_logged_every_hundred_steps() -> None:
    run = Run(config("warn")).take_steps(steps(250, per_epoch=1000, first=301, frac_truncated=0.9))
    alerted_at = [number for number, response in enumerate(run.responses, start=1) if response.alerts]
    assert alerted_at == [5, 105, 205]
    assert not run.adjustments
    assert run.monitor.stopped_for is None


def test_adapt_applies_the_mitigations_of_the_first_analysis_within_their_bounds_in_turn() -> None:
    run = Run(config("adapt")).take_steps(steps(420, per_epoch=1000, first=301, **COLLAPSED))
    assert run.adjustments == [
        (324, {"rollout.temperature": 1.1, "rollout.group_size": 8}),
        (424, {"rollout.temperature": 1.3}),
    ]
    assert run.monitor.stopped_for is None  # no rule stops before epoch 1.0


def test_adapt_stops_if_a_rule_stops_and_no_mitigation_is_left() -> None:
    run = Run(config("adapt")).take_steps(steps(300, per_epoch=1000, first=1001, **COLLAPSED))
    stops = [number for number, response in enumerate(run.responses, start=1001) if response.stop]
    assert [step for step, _ in run.adjustments] == [1024, 1124]
    assert stops[0] == 1224
    assert run.monitor.stopped_for is not None
    assert run.monitor.stopped_for.rule.id == "mode_collapse"


def test_adapt_applies_the_second_analysis_mitigations() -> None:
    falling = steps(100, per_epoch=10**6, loss=0.17, reward=0.25) + steps(
        100, per_epoch=10**6, first=101, loss=0.16, reward=0.24
    )
    run = Run(config("adapt", "temperature=1.1")).take_steps(falling)
    assert len(run.adjustments) == 1
    assert run.adjustments[0][1] == {
        "learner.kl_coefficient": 0.05,
        "learner.learning_rate": pytest.approx(7e-6),
        "rollout.temperature": 1.2,
    }


def test_a_kl_coefficient_with_a_target_is_not_adjusted() -> None:
    falling = steps(60, per_epoch=10**6, loss=0.17, reward=0.25) + steps(
        60, per_epoch=10**6, first=61, loss=0.1, reward=0.2
    )
    run = Run(config("adapt", "kl_target=0.01")).take_steps(falling)
    assert run.adjustments
    assert all("learner.kl_coefficient" not in values for _, values in run.adjustments)


def test_the_temperature_is_not_raised_if_programs_differ() -> None:
    run = Run(config("adapt")).take_steps(
        steps(50, per_epoch=1000, first=301, **{**COLLAPSED, "distinct_share_renamed": 0.98})
    )
    assert run.adjustments == [(324, {"rollout.group_size": 8})]


def test_the_temperature_is_not_raised_if_entropy_is_high() -> None:
    run = Run(config("adapt")).take_steps(steps(50, per_epoch=1000, first=301, **{**COLLAPSED, "entropy": 0.9}))
    assert run.adjustments == [(324, {"rollout.group_size": 8})]


def test_a_healthy_run_is_not_adjusted() -> None:
    run = Run(config("adapt")).take_steps(steps(400, noise=0.1))
    assert not run.adjustments
    assert not any(response.alerts or response.stop for response in run.responses)


def test_stop_ends_the_run_only_if_a_rule_stops() -> None:
    run = Run(config("stop")).take_steps(steps(200, per_epoch=100, frac_zero_std_sampled=0.5, frac_zero_std=0.5))
    first = next(number for number, response in enumerate(run.responses, start=1) if response.stop)
    assert first == 100  # at epoch 1.0, although the rule is violated from the first step
    assert not run.adjustments


def test_a_setting_changed_on_resume_has_time_to_take_effect_before_a_stop() -> None:
    before = steps(150, per_epoch=100, reward=0.05)
    stopped = Run(config("stop")).take_steps(before)
    assert stopped.monitor.stopped_for
    resumed = Config.model_validate(
        {**config("stop").model_dump(), "resume_overrides": [{"from_step": 150, "set": {"rollout.temperature": 1.2}}]}
    )
    again = Run(resumed, steps=before, phases=stopped.phases, health=stopped.health)
    again.take_steps(steps(120, first=151, per_epoch=100, reward=0.05))
    stops = [number for number, response in enumerate(again.responses, start=151) if response.stop]
    assert stops[0] == 250
    unchanged = Run(config("stop"), steps=before, phases=stopped.phases, health=stopped.health)
    assert unchanged.take_steps(steps(1, first=151, per_epoch=100, reward=0.05)).responses[0].stop


@pytest.mark.parametrize("cut", [7, 301, 470, 485, 500, 600])
def test_an_interruption_changes_no_adjustment(cut: int) -> None:
    rows = steps(460, per_epoch=1000, noise=0.1) + steps(200, first=461, per_epoch=1000, noise=0.1, **COLLAPSED)
    scheduled = config("adapt", "schedule=[{from_step: 300, set: {rollout.max_completion_tokens: 300}}]")
    uninterrupted = Run(scheduled).take_steps(rows)
    first = Run(scheduled).take_steps(rows[:cut])
    kept = [[row for row in rows_of_file if row["step"] <= cut] for rows_of_file in (first.phases, first.health)]
    second = Run(scheduled, steps=rows[:cut], phases=kept[0], health=kept[1]).take_steps(rows[cut:])
    assert uninterrupted.adjustments
    assert second.adjustments == uninterrupted.adjustments
    assert second.health == uninterrupted.health


def test_the_metrics_that_the_monitor_keeps_are_sufficient() -> None:
    rows = steps(300, **COLLAPSED)
    slim = [{name: row[name] for name in METRICS if name in row} for row in rows]
    assert HEALTHY.keys() <= set(METRICS)
    assert [one.assessment for one in check_run(History(steps=slim))] == [
        one.assessment for one in check_run(History(steps=rows))
    ]


def drive(
    settings: Config, folder: Path, *, max_steps: int, reward: Any
) -> tuple[MemoryRecorder, Progress, HealthMonitor]:
    problems = [problem(f"p{number}") for number in range(8)]
    records, progress, monitor = MemoryRecorder(), Progress(), HealthMonitor(settings)
    driver = Driver(
        settings,
        Pools(
            samplers=FakeSamplerPool(lambda *_: "n + 1"),
            graders=ScriptedGraders(reward),
            learner=FakeLearner(checkpoints_dir=folder),
        ),
        TrainingProblems(
            stream=ProblemStream(problems, seed=0),
            prompts={one.id: Prompt(problem_id=one.id, text="", token_ids=(1,)) for one in problems},
        ),
        Hooks(recorder=records, health=monitor),
        max_steps=max_steps,
        progress=progress,
        stop=asyncio.Event(),
    )
    asyncio.run(asyncio.wait_for(driver.train(), 60))
    return records, progress, monitor


def constant_reward(completion: Completion) -> float:
    return 0.3


def test_the_driver_samples_with_the_changed_settings_and_records_them(tmp_path: Path) -> None:
    settings = load_config(None, ["on_unhealthy=adapt", "groups_per_step=2", "group_size=3"], environment={})
    records, _, monitor = drive(settings, tmp_path, max_steps=40, reward=constant_reward)
    ((step, response),) = [(step, response) for step, response in records.responses if response.mitigation]
    assert response.mitigation is not None
    assert response.mitigation.values == {"rollout.group_size": 4, "rollout.temperature": 1.1}
    assert (step, response.mitigation.values) in records.settings_changes
    sizes = [{len(group.completions) for group in groups} for groups in records.steps]
    assert all(size == {3} for size in sizes[:step])
    assert sizes[-1] == {4}
    assert monitor.stopped_for is None


def test_the_driver_stops_and_keeps_a_checkpoint(tmp_path: Path) -> None:
    settings = load_config(None, ["on_unhealthy=stop", "groups_per_step=2", "group_size=3"], environment={})
    records, progress, monitor = drive(settings, tmp_path, max_steps=130, reward=lambda _: 0.01)
    assert monitor.stopped_for is not None
    assert progress.step == 100
    assert progress.saved_step == progress.step
    assert worst(
        check_run(History(steps=[{"step": i + 1, "epoch": 2.0, **row} for i, row in enumerate(records.metrics)]))
    )


def test_a_resume_override_wins_over_an_automatic_adjustment(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.opened(config("adapt", f"run.folder={tmp_path}", "run.name=run")):
        folder.append_json(
            folder.health, {"step": 20, "rule": "mode_collapse", "health": "warn", "set": {"rollout.temperature": 1.1}}
        )
        (folder.checkpoints / "checkpoint-20").mkdir()
    plain = resumed_config(folder.path, [])
    adjustments = monitor_of(folder, plain).adjustments
    assert plain.settings_schedule(adjustments).at(step=20, epoch=0.0) == {"rollout.temperature": 1.1}
    back = resumed_config(folder.path, ["temperature=0.9"])  # the configured value
    assert back.settings_schedule(adjustments).at(step=20, epoch=0.0) == {"rollout.temperature": 0.9}
    with folder.opened(back):
        assert (
            resumed_config(folder.path, ["temperature=0.9"]).resume_overrides == back.resume_overrides
        )  # the same command again
    assert resumed_config(folder.path, ["on_unhealthy=warn"]).health.on_unhealthy == "warn"


def test_alerts_and_adjustments_are_recorded_with_their_reason_and_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    run = Run(config("adapt")).take_steps(steps(100, per_epoch=1000, **COLLAPSED))
    with folder.opened(config("adapt")):
        records = RunRecorder(folder, View(), lambda _: None)
        for step, response in enumerate(run.responses, start=1):
            records.health_checked(step, response)
        folder.append_json(folder.metrics, *run.steps)
    (adjustment,) = [row for row in folder.rows(folder.health) if "set" in row]
    assert adjustment["rule"] == "mode_collapse"
    assert adjustment["evidence"] and adjustment["source"]
    assert adjustment["set"] == {"rollout.temperature": 1.1, "rollout.group_size": 8}
    assert monitor_of(folder, config("adapt")).adjustments == run.monitor.adjustments
    assert "settings change after step" in capsys.readouterr().err
    folder.truncate_after(adjustment["step"] - 1)  # resumed from a checkpoint before it
    assert not monitor_of(folder, config("adapt")).adjustments
