"""What a run writes down as it goes: the seeds' logs, the metrics, and every completion with its fate."""

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.buffer import Dropped
from cluster.console import View
from cluster.metrics import learning_log_line
from cluster.progress import Progress
from cluster.run_folder import RunFolder
from cluster.types import Completion, Fate, Grade, Group, Problem


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


def breakdown(grade: Grade) -> dict[str, Any]:
    """The parts of a reward and the facts behind them, as one flat row."""
    facts, terms = grade.facts, grade.terms
    return {
        "total_reward": grade.reward,
        "structural": terms.structural,
        "type_check": terms.type_check,
        "compile": terms.compile,
        "tests": terms.tests,
        "verdict": facts.verdict,
        "type_errors": facts.type_errors,
        "syntax_error": facts.syntax_error,
        "tests_passed": facts.tests_passed,
        "tests_total": facts.tests_total,
        "has_end_marker": facts.has_end_marker,
        "hit_length_limit": facts.hit_length_limit,
        "num_code_lines": facts.num_code_lines,
    }


def rollout_rows(group: Group, step: int, fate: Fate, reason: str) -> list[dict[str, Any]]:
    """One row per completion of a group, as rollout_schema describes."""
    return [
        _rollout_row(
            group.problem, completion, grade, step, fate if grade else Fate.FAILED, reason if grade else "ungradable"
        )
        for completion, grade in zip(group.completions, group.grades, strict=True)
    ]


def _rollout_row(
    problem: Problem, completion: Completion, grade: Grade | None, step: int, fate: Fate, reason: str
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "step": step,
        "fate": fate,
        "reason": reason,
        "problem_id": problem.id,
        "group_id": completion.group_id,
        "completion_id": completion.id,
        "policy_version": completion.policy_version,
        "prompt_ids": completion.prompt_ids,
        "token_ids": completion.token_ids,
        "sampler_logprobs": completion.sampler_logprobs,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "sampling_seconds": completion.seconds,
    }
    if grade:
        row |= breakdown(grade)
        row["diagnostics"] = grade.facts.diagnostics
        row["grading_seconds"] = sum(grade.facts.seconds.values())
    return row


def rollout_schema() -> Any:
    """The pyarrow schema of ``rollouts/*.parquet``; grade columns are null where a completion could not be graded."""
    import pyarrow as pa

    text, number, real, flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
    return pa.schema(
        {
            "step": number,  # the step that trained it, or the step under way when it was dropped
            "fate": text,  # cluster.types.Fate
            "reason": text,  # why it was not trained; empty where it was
            "problem_id": text,
            "group_id": text,
            "completion_id": text,
            "policy_version": number,
            "prompt_ids": pa.list_(pa.int32()),  # [P]
            "token_ids": pa.list_(pa.int32()),  # [T]
            "sampler_logprobs": pa.list_(pa.float32()),  # [T]
            "text": text,
            "finish_reason": text,
            "sampling_seconds": real,
            "total_reward": real,
            "structural": real,
            "type_check": real,
            "compile": real,
            "tests": real,
            "verdict": text,  # cluster.types.Verdict
            "type_errors": number,
            "syntax_error": flag,
            "tests_passed": number,
            "tests_total": number,
            "has_end_marker": flag,
            "hit_length_limit": flag,
            "num_code_lines": number,
            "diagnostics": text,
            "grading_seconds": real,
        }
    )
