"""The run directory: its files, its lock, and the check that an earlier start can be resumed.

::

    runs/<name>/
        config.yaml                         the resolved configuration
        data.jsonl                          per problem: fingerprint and side of the split (training or held out)
        audit.jsonl                         per problem: reason why no solution can pass it
        base_gaps.json                      probe prompts, and the weight-sync gap of each under the base model
        learning.log                        one line per step
        time.log                            one line per step: busy share of each part, and what it waited for
        metrics.jsonl                       one object per step: all metrics
        epochs.jsonl                        one object per complete epoch: means of its metrics
        phases.jsonl                        settings that changed, by step
        health.jsonl                        alerts of the health checks, and automatic adjustments
        publishes.jsonl                     one object per policy: seconds to load it on the samplers, and weight-sync gap
        evaluation.jsonl                    held-out results, one object per evaluation
        reward_logs/completions.jsonl       every graded completion with its text
        reward_logs/syntax_aware_breakdown.jsonl   reward terms and facts of each
        rollouts/step-000001-….parquet      every completion with tokens, logprobs, facts and outcome
        checkpoints/                        checkpoints of the learner, newest last; best.json names the best one
        progress/step-000020.json           state of the loop at each checkpoint
        initial_adapter/                    the adapter that training started from (learner.adapter)
        adapter/                            the final adapter in PEFT format
        adapter-20/                         the adapter of step 20, if the run ended before it was extended
        model/, model-20/                   the same with learner.method=full: a whole model with its tokenizer
        reward.png                          the reward curve
        summary.json                        the results; written when the run is finished
        tensorboard/                        the metrics for TensorBoard
        worker_logs                         a link to the output of samplers, graders and learner, while Ray keeps it
"""

import errno
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from cluster.config.change_text import describe_change
from cluster.config.config import Config, dump_yaml, flatten, validate
from cluster.config.keys import keys_with, rename_old_keys
from cluster.config.method import FULL
from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.evaluation_result import EvaluationResult
from cluster.ledger.file_lock import is_locked, locked
from cluster.ledger.jsonl import lines_of, step_of_line, whole_rows
from cluster.ledger.progress import Progress
from cluster.ledger.refused_start import restored_on_refusal
from cluster.setting_traits import Trait

PROMPT_DATE, TEMPLATE_HASH = "prompt.date", "prompt.template_hash"


def is_placement(key: str) -> bool:
    """Return True for a key that affects where work is done, not what is learned."""
    return key in keys_with(Trait.PLACEMENT)


class RunFolder:
    """One run directory. Writing raises RunFolderError, which names the file and the cause (a full disk, for example)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = ""  # text of config.yaml for this start
        self.config = path / "config.yaml"
        self.data = path / "data.jsonl"
        self.audit = path / "audit.jsonl"
        self.base_gaps = path / "base_gaps.json"
        self.learning_log = path / "learning.log"
        self.time_log = path / "time.log"
        self.metrics = path / "metrics.jsonl"
        self.epochs = path / "epochs.jsonl"
        self.publishes = path / "publishes.jsonl"
        self.phases = path / "phases.jsonl"
        self.health = path / "health.jsonl"
        self.evaluation = path / "evaluation.jsonl"
        self.completions = path / "reward_logs" / "completions.jsonl"
        self.breakdown = path / "reward_logs" / "syntax_aware_breakdown.jsonl"
        self.rollouts = path / "rollouts"
        self.checkpoints = path / "checkpoints"
        self.progress = path / "progress"
        self.initial_adapter = path / "initial_adapter"
        self.adapter = path / "adapter"
        self.model = path / "model"
        self.curve = path / "reward.png"
        self.summary = path / "summary.json"
        self.tensorboard = path / "tensorboard"
        self.tracker_id = path / ".tracker"
        self.scaling = path / ".scaling"
        self.worker_logs = path / "worker_logs"

    @property
    def argument(self) -> str:
        """The path, quoted for a command line."""
        return shlex.quote(str(self.path))

    @contextmanager
    def opened(self, config: Config) -> Iterator["RunFolder"]:
        """Create or reopen the directory, and lock it against other processes during the block.

        If the block raises before the run has new results, the directory is restored, or removed if it was created.
        """
        with self.explain_errors(self.path):
            folders = [
                self.completions.parent,
                self.rollouts,
                self.checkpoints,
                self.progress,
                self.path,
                *self.path.parents,
            ]
            made = [path for path in (self.path / ".lock", *folders) if not path.exists()]
            for folder in folders[:4]:
                folder.mkdir(parents=True, exist_ok=True)
            (self.path / ".lock").touch()
        busy = RunFolderError(
            f"{self.path} is in use by another process; wait for it, or start another run with run.name=NAME"
        )
        with locked(self.path / ".lock", busy), restored_on_refusal(self.path, made):
            self._check_config(config)
            yield self

    def may_differ(self, key: str) -> bool:
        """Return True for a key that may have another value when the run is resumed: it does not affect what is learned."""
        return is_placement(key) or (key in keys_with(Trait.DATA_SOURCE) and self.data.exists())

    def is_running(self) -> bool:
        """Return True if a process holds the lock; raises RunFolderError if no run was ever started here."""
        try:
            return is_locked(self.path / ".lock")
        except OSError as error:
            raise RunFolderError(
                f"{self.path} is not a run directory: no run was started there (.lock: {error.strerror})"
            ) from None

    def load_progress(self, step: int) -> Progress:
        """Return the state of the loop at a checkpoint; raises RunFolderError if it cannot be read."""
        if step == 0:
            return Progress()
        path = self._progress_file(step)
        try:
            return Progress.from_json(path.read_text())
        except (OSError, ValueError) as error:
            raise RunFolderError(f"cannot resume from step {step}: {path} cannot be read ({error})") from None

    def save_progress(self, step: int, state: str) -> None:
        """Write the state of the loop at the checkpoint of this step."""
        self.write(self._progress_file(step), state)

    def truncate_after(self, step: int) -> None:
        """Remove the rows of steps that a resumed run takes again, so that each step is reported once."""
        for path in (
            self.metrics,
            self.epochs,
            self.publishes,
            self.phases,
            self.health,
            self.evaluation,
            self.completions,
            self.breakdown,
        ):
            if path.exists():
                kept = [line for line in lines_of(path) if step_of_line(line) <= step]
                self.write(path, "".join(f"{line}\n" for line in kept))
        for path in (self.learning_log, self.time_log):
            if path.exists():
                self.write(path, "".join(f"{line}\n" for line in lines_of(path)[:step]))
        for path in self.rollouts.glob("step-*"):
            if path.suffix == ".tmp" or int(path.name.split("-")[1]) > step:
                path.unlink()

    def num_problems(self, step: int) -> int:
        """Return the number of training problems, computed from the metrics and progress of a step with a checkpoint."""
        try:
            lines = lines_of(self.metrics)
        except OSError as error:
            raise RunFolderError(f"{self.metrics} cannot be read ({error.strerror})") from None
        line = next((line for line in lines if step_of_line(line) == step), None)
        if line is None:
            raise RunFolderError(f"{self.metrics} has no row of step {step}, which has a checkpoint")
        return self.load_progress(step).problems_per_epoch(json.loads(line)["epoch"])

    def final(self, method: str) -> Path:
        """Return the path of the final weights of a run with this ``learner.method``."""
        return self.model if method == FULL else self.adapter

    def former(self, step: int, method: str) -> Path:
        """Return the path of the final weights of a step at which the run ended before it was extended."""
        return self.path / f"{self.final(method).name}-{step}"

    def reopen(self, step: int) -> None:
        """Reopen a finished run to extend it: rename its final adapter and evaluation after their step."""
        with self.explain_errors(self.path):
            for weights in (self.adapter, self.model):
                if weights.exists():
                    former = self.path / f"{weights.name}-{step}"
                    shutil.rmtree(former, ignore_errors=True)  # same content, from an earlier end at this step
                    weights.rename(former)
            self.curve.unlink(missing_ok=True)
            self.summary.unlink(missing_ok=True)
        results = self.rows(self.evaluation, missing_ok=True)
        if any(row["name"] == "after" for row in results):
            rows = [row | {"name": f"step {row['step']}"} if row["name"] == "after" else row for row in results]
            self.write(self.evaluation, "".join(f"{json.dumps(row)}\n" for row in rows))

    def link_worker_logs(self, logs: Path) -> None:
        """Link to the directory in which Ray keeps the output of its workers."""
        with self.explain_errors(self.worker_logs):
            self.worker_logs.unlink(missing_ok=True)
            self.worker_logs.symlink_to(logs)

    def append(self, path: Path, row: str) -> None:
        """Append one line to a file."""
        with self.explain_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(f"{row}\n")

    def append_json(self, path: Path, *rows: Mapping[str, Any]) -> None:
        """Append objects to a JSONL file, all in one write."""
        if rows:
            self.append(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))

    def write(self, path: Path, text: str) -> None:
        """Write a file atomically."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with self.explain_errors(path):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)

    def changed_settings(self) -> dict[str, Any]:
        """Return the settings that changed so far, by dotted key."""
        return {key: value for row in self.rows(self.phases, missing_ok=True) for key, value in row["set"].items()}

    def evaluations(self) -> list[EvaluationResult]:
        """Return the held-out results so far, oldest first."""
        return [EvaluationResult.from_row(row) for row in self.rows(self.evaluation, missing_ok=True)]

    def rows(self, path: Path, *, missing_ok: bool = False) -> list[dict[str, Any]]:
        """Return the objects of one of the run's JSONL files; raises RunFolderError."""
        if not missing_ok and not path.exists():
            raise RunFolderError(f"{path} cannot be read: there is no such file")
        return list(whole_rows(path))

    def rollout_files(self, step: int | None = None) -> list[Path]:
        """Return the rollout files so far, or those of one step, in the order in which they were written."""
        return sorted(self.rollouts.glob("step-*.parquet" if step is None else f"step-{step:06d}-*.parquet"))

    def settings(self, *keys: str) -> dict[str, Any]:
        """Return the values of dotted keys that config.yaml has; nothing if it cannot be read.

        The directory of another trainer may have a different config.yaml.
        """
        try:
            tree = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        try:
            tree, _ = rename_old_keys(tree) if isinstance(tree, dict) else ({}, [])
        except ConfigError:
            return {}
        found = {}
        for key in keys:
            value: Any = tree
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                found[key] = value
        return found

    def prompt_settings(self) -> dict[str, Any]:
        """Return the run's settings of prompts; nothing if there are none yet or config.yaml cannot be read."""
        kept = self.settings("prompt").get("prompt")
        return kept if isinstance(kept, dict) else {}

    def prompt_date(self) -> date | None:
        """Return the date in the run's prompts; None if there is none yet or config.yaml cannot be read."""
        kept = self.settings(PROMPT_DATE).get(PROMPT_DATE)
        try:
            return None if kept is None else date.fromisoformat(str(kept))
        except ValueError:
            return None

    def template_hash(self) -> str | None:
        """Return the digest of the run's prompts; None if there is none yet or config.yaml cannot be read."""
        kept = self.settings(TEMPLATE_HASH).get(TEMPLATE_HASH)
        return None if kept is None else str(kept)

    def _progress_file(self, step: int) -> Path:
        return self.progress / f"step-{step:06d}.json"

    def _check_config(self, config: Config) -> None:
        """Raise RunFolderError if a run with a checkpoint would resume under another configuration."""
        has_checkpoint = any(self.checkpoints.glob("checkpoint-*"))
        if self.config.exists():
            changed = self._changed(config)
            if changed and has_checkpoint:
                raise RunFolderError(
                    f"{self.path} was started with another configuration: {', '.join(changed)}. "
                    "Start another run with run.name=NAME, or give the old values to resume this one; `caravan train "
                    f"--resume {self.argument} key=value` changes settings that may change during a run"
                )
            if changed:
                self.evaluation.unlink(missing_ok=True)  # measured under the other configuration
        elif has_checkpoint:
            raise RunFolderError(f"{self.path} has checkpoints but no config.yaml, so it cannot be resumed")
        self.keep_config(config)

    def keep_config(self, config: Config) -> None:
        """Write this configuration in place of the one that the directory was opened with."""
        self._kept = dump_yaml(config)
        if not any(self.checkpoints.glob("checkpoint-*")):
            self.write_config()

    def write_config(self) -> None:
        """Write config.yaml. Called once the run has started, so that a failed start changes nothing."""
        self.write(self.config, self._kept)

    def _changed(self, config: Config) -> list[str]:
        """Return the settings of learning that differ from those at the first start, as ``key=value (was ...)``."""
        try:
            before = flatten(validate(yaml.safe_load(self.config.read_text(encoding="utf-8"))))
        except (ConfigError, yaml.YAMLError) as error:
            raise RunFolderError(f"{self.config} cannot be read back: {error}") from None
        now = flatten(config)
        earlier = before["resume_overrides"]
        if now["resume_overrides"][: len(earlier)] == earlier:  # a run may get further ones
            del now["resume_overrides"], before["resume_overrides"]
        for key in (PROMPT_DATE, TEMPLATE_HASH):
            if None in (now[key], before[key]):
                del now[key], before[key]
        keys = dict.fromkeys((*now, *before))
        changed = [key for key in keys if now.get(key) != before.get(key) and not self.may_differ(key)]
        return [describe_change(key, before.get(key), now.get(key)) for key in changed]

    @contextmanager
    def explain_errors(self, path: Path) -> Iterator[None]:
        """Turn an OSError during the block into a RunFolderError that names the file."""
        try:
            yield
        except OSError as error:
            cause = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise RunFolderError(
                f"cannot write {path}: {cause}. Earlier results are intact; free disk space or set another "
                "run.folder, then start again to resume from the last checkpoint"
            ) from error
