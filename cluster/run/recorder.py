"""The recorder of a run: logs, metrics, and every completion with its outcome, on disk and on the screen."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.console import View, busy_line
from cluster.health.command import comparison_table
from cluster.health.comparison import compare
from cluster.health.history import Epochs, Window
from cluster.health.monitor import Response
from cluster.ledger.jsonl import whole_rows
from cluster.ledger.learning_log import learning_log_line
from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.rows import breakdown, dropped_rows, rollout_schema, trained_rows
from cluster.ledger.run_folder import RunFolder
from cluster.loop.metrics import percentile
from cluster.types import Group, Prompt, StepReport, WeightSync

FLUSH_SECONDS = 5.0
"""Longest time that rows of dropped groups wait for other rows before they are written to a file."""


STEPS_BETWEEN_TABLES = 20
"""Steps between two tables of epochs on the terminal: on a small data set an epoch has few steps. epochs.jsonl has all."""


class RunRecorder:
    """The driver's Recorder: writes to the run folder, logs to ``view``, and sends metrics to other programs by ``export``."""

    def __init__(
        self,
        folder: RunFolder,
        view: View,
        export: Callable[[Mapping[str, float | None]], None],
        prompts: Mapping[str, Prompt] | None = None,
    ) -> None:
        """``prompts``: by problem id; rows of completions contain them."""
        self._folder = folder
        self._view = view
        self._export = export
        self._prompts = prompts or {}
        self._part = 0  # number of the last Parquet file of this process; names never repeat
        self._pending: list[dict[str, Any]] = []
        self._flushed_at = time.monotonic()
        self._recorded_settings = folder.changed_settings()
        self._epochs = Epochs()
        self._last_epoch: Window | None = None
        self._compared_at = -STEPS_BETWEEN_TABLES  # step of the last table that was shown
        for row in whole_rows(folder.metrics):
            self._last_epoch = self._epochs.add(row) or self._last_epoch
        # The first conversion loads pandas, which takes more than a second: load it here, not between two steps.
        pa.array([0])

    def group_dropped(self, dropped: DroppedGroup, step: int) -> None:
        """Record a group that will not be trained, under the next step."""
        self._log_rewards([dropped.group], step + 1)
        self._pending.extend(dropped_rows(dropped, step + 1))
        if time.monotonic() - self._flushed_at > FLUSH_SECONDS:
            self._write_rollouts(step + 1)

    def step_done(
        self,
        epoch: float,
        groups: Sequence[Group],
        report: StepReport,
        metrics: Mapping[str, float],
        active_overrides: Mapping[str, Any],
    ) -> None:
        """Record a step; its rollouts are readable when this returns."""
        step = report.step
        self._log_rewards(groups, step)
        self._pending.extend(row for group in groups for row in trained_rows(group, report))
        self._write_rollouts(step)
        row = {"step": step, "epoch": epoch, **metrics}
        self._folder.append_json(
            self._folder.metrics, row | ({"in_force": dict(active_overrides)} if active_overrides else {})
        )
        self._folder.append(self._folder.learning_log, learning_log_line(epoch, metrics))
        self._folder.append(
            self._folder.time_log, f"[Step {step}]  {metrics['step_seconds']:.1f} s  {busy_line(metrics)}"
        )
        self._export(row)
        self._view.step_done(step, epoch, metrics)
        if closed := self._epochs.add(row):
            self._epoch_done(step, closed)

    def _epoch_done(self, step: int, epoch: Window) -> None:
        """Record the means of an epoch, and show its difference from the previous epoch."""
        self._folder.append_json(self._folder.epochs, {"step": step, "name": epoch.name, **epoch.as_row()})
        if self._last_epoch and step >= self._compared_at + STEPS_BETWEEN_TABLES:
            self._view.console.print(comparison_table(compare((self._last_epoch, epoch))))
            self._compared_at = step
        self._last_epoch = epoch

    def settings_changed(self, step: int, values: Mapping[str, Any]) -> None:
        """Log and record changed settings, except those that were recorded before the run was resumed."""
        recorded = self._recorded_settings
        values = {key: value for key, value in values.items() if key not in recorded or recorded[key] != value}
        if not values:
            return
        self._recorded_settings |= values
        self._folder.append_json(self._folder.phases, {"step": step, "set": values})
        changes = ", ".join(
            f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()
        )
        self._view.log(f"after step {step}: {changes}")

    def health_checked(self, step: int, response: Response) -> None:
        """Log and record alerts about the run's health, and the adjustment that is made."""
        for alert in response.alerts:
            assessment = alert.assessment
            self._view.warn(f"health after step {step}: {alert.rule.id}: {assessment.evidence}. {assessment.action}")
            self._folder.append_json(self._folder.health, {"step": step, **alert.as_row()})
        if mitigation := response.mitigation:
            alert = mitigation.alert
            self._folder.append_json(self._folder.health, {"step": step, **alert.as_row(), "set": mitigation.values})
            self._view.warn(f"settings change after step {step} for {alert.rule.id}: {alert.assessment.evidence}")

    def policy_published(self, version: int, syncs: Sequence[WeightSync], began_at: float, seconds: float) -> None:
        """Record how the samplers loaded a policy."""
        latencies = [sync.seconds for sync in syncs]
        gaps = [sync.gap for sync in syncs if sync.gap is not None]
        metrics = {
            "publish_seconds": seconds,
            "swap_p50_seconds": statistics.median(latencies),
            "swap_p95_seconds": percentile(latencies, 0.95),
            "canary_gap_mean": statistics.fmean(gaps) if gaps else None,
            "canary_gap_max": max(gaps) if gaps else None,
            "weight_sync_tolerance": max(sync.tolerance for sync in syncs) if gaps else None,
        }
        by_sampler = {sync.sampler: sync.seconds for sync in syncs}
        row = {"step": version, "began_at": began_at, **metrics, "seconds_by_sampler": by_sampler}
        self._folder.append_json(self._folder.publishes, row)
        self._export({"step": version, **metrics})

    def filter_suspended(self, step: int) -> None:
        """Warn that no group is filtered until the step has its batch."""
        self._view.warn(
            f"step {step + 1}: more than loop.max_filtered_per_step groups were filtered, so that all are kept until it has its "
            "batch; raise rollout.temperature or rollout.group_size, or use other problems"
        )

    def save_progress(self, step: int, state: str) -> None:
        """Save the state that resuming from this step needs."""
        self._folder.save_progress(step, state)

    def _log_rewards(self, groups: Sequence[Group], step: int) -> None:
        graded = [
            ({"step": step, "problem_id": group.problem.id, "completion_id": completion.id}, completion, grade)
            for group in groups
            for completion, grade in zip(group.completions, group.grades, strict=True)
            if grade is not None
        ]
        self._folder.append_json(
            self._folder.completions,
            *(
                {**row, "reward": grade.reward, "verdict": grade.facts.verdict, "completion": completion.text}
                for row, completion, grade in graded
            ),
        )
        self._folder.append_json(self._folder.breakdown, *({**row, **breakdown(grade)} for row, _, grade in graded))

    def _prompt_columns(self, problem_id: str) -> dict[str, str]:
        prompt = self._prompts.get(problem_id)
        return {"prompt": prompt.text, "template_hash": prompt.template_hash} if prompt else {}

    def _write_rollouts(self, step: int) -> None:
        self._part += 1
        path = self._folder.rollouts / f"step-{step:06d}-{self._part:06d}.parquet"
        temporary = path.with_suffix(".tmp")
        with self._folder.explain_errors(path):
            rows = [{**row, **self._prompt_columns(row["problem_id"])} for row in self._pending]
            pq.write_table(pa.Table.from_pylist(rows, schema=rollout_schema()), temporary)
            temporary.replace(path)
        self._pending.clear()
        self._flushed_at = time.monotonic()
