"""What a run writes down as it goes: the seeds' logs, the metrics, and every completion with its fate."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.buffer import Dropped
from cluster.console import View
from cluster.metrics import learning_log_line
from cluster.progress import Progress
from cluster.rollouts import breakdown, rollout_rows, rollout_schema
from cluster.run_folder import RunFolder
from cluster.types import Fate, Group


class RunRecords:
    """The Records of the driver, on disk; ``view`` shows the same to whoever watches."""

    def __init__(self, folder: RunFolder, view: View) -> None:
        self._folder = folder
        self._view = view
        self._part = 0  # Parquet files written by this process, so that names never repeat
        self._pending: list[dict[str, Any]] = []

    def group_dropped(self, dropped: Dropped, step: int) -> None:
        """Keep a group that will not be trained, under the step that comes next."""
        self._log_rewards(dropped.group, step + 1)
        self._pending.extend(rollout_rows(dropped.group, step + 1, dropped.fate, dropped.reason))
        self._view.group_dropped(dropped)

    def step_done(self, step: int, epoch: float, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
        """Write everything about one step; the step's file of rollouts is readable as soon as this returns."""
        for group in groups:
            self._log_rewards(group, step)
            self._pending.extend(rollout_rows(group, step, Fate.TRAINED, ""))
        self._write_rollouts(step)
        self._folder.append_json(self._folder.metrics, {"step": step, "epoch": epoch, **metrics})
        self._folder.append(self._folder.learning_log, learning_log_line(epoch, metrics))
        self._view.step_done(step, epoch, metrics)

    def filtering_gave_up(self, step: int) -> None:
        """Say that the filter no longer filters."""
        self._view.warn(
            f"step {step + 1}: so many groups had no signal that they are kept again; "
            "raise rollout.temperature or rollout.group_size, or take easier problems"
        )

    def save_progress(self, progress: Progress) -> None:
        """Keep what resuming from this step needs."""
        self._folder.save_progress(progress)

    def _log_rewards(self, group: Group, step: int) -> None:
        for completion, grade in zip(group.completions, group.grades, strict=True):
            if grade is None:
                continue
            row = {"step": step, "problem_id": group.problem.id, "completion_id": completion.id}
            self._folder.append_json(
                self._folder.completions,
                {**row, "reward": grade.reward, "verdict": grade.facts.verdict, "completion": completion.text},
            )
            self._folder.append_json(self._folder.breakdown, {**row, **breakdown(grade)})

    def _write_rollouts(self, step: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._part += 1
        path = self._folder.rollouts / f"step-{step:06d}-{self._part:06d}.parquet"
        temporary = path.with_suffix(".tmp")
        with self._folder.explained(path):
            pq.write_table(pa.Table.from_pylist(self._pending, schema=rollout_schema()), temporary)
            temporary.replace(path)
        self._pending.clear()
