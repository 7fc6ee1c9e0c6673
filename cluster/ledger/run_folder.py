"""The folder of a run: what lies where, who may write to it, and whether an earlier start can be gone on with.

::

    runs/<name>/
        config.yaml                         the resolved configuration
        data.jsonl                          per problem, its fingerprint, and whether it is trained on or held out
        audit.jsonl                         per problem, why no solution can pass it
        learning.log                        one line per step
        time.log                            one line per step: who was busy, who waited for whom
        metrics.jsonl                       one object per step, every figure
        epochs.jsonl                        one object per complete epoch, the means of its figures
        phases.jsonl                        what changed after which step
        health.jsonl                        trouble that was found, and settings that were changed for it
        publishes.jsonl                     one object per policy: how long the samplers took to load and prove it
        evaluation.jsonl                    held-out results, one object per evaluation
        reward_logs/completions.jsonl       every graded completion with its text
        reward_logs/syntax_aware_breakdown.jsonl   its reward, term by term
        rollouts/step-000001-….parquet      every completion with tokens, logprobs, facts and outcome
        checkpoints/                        the learner's, newest last; best.json says which was measured best
        progress/step-000020.json           where the loop stood at each checkpoint
        adapter/                            the final adapter in PEFT format
        adapter-20/                         that of a former end, where the run was extended at step 20
        reward.png                          the reward curve
        summary.json                        the results; there when the run is finished
        tensorboard/                        the figures once more, for TensorBoard
        worker_logs                         a link to what samplers, graders and learner printed, while Ray keeps it
"""

import errno
import fcntl
import json
import math
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from cluster.config.config import Config, dump_yaml, flatten, validate
from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.progress import Progress
from cluster.ledger.refused_start import left_as_it_was

# Keys that may differ between the start of a run and its continuation: they say where work is done or who looks after it, not
# what is learned (what was changed for the run's health stands in health.jsonl, and stays).
PLACEMENT_KEYS = (
    "health.",
    "_samplers",
    "_graders",
    "tensor_parallel_size",
    "num_ranks",
    "shard_base",
    "cpus",
    "gpus",
    "cpus_per_",
    "gpus_per_",
    "gpu_memory_utilization",
    "kv_cache_gib",
    "max_concurrent_requests",
    "num_threads",
    "save_every_steps",
    "save_total_limit",
    "deadline_seconds",
    "run.folder",
    "run.name",
    "run.tracker",
)

# Where the data lies, which may differ in a run that knows its data by its content (data.jsonl).
DATA_KEYS = ("data.dataset", "data.split", "data.config", "data.revision")

# What a row must have for any reader to make sense of it, by file; the other figures may be missing, as in older runs.
NEEDED: Mapping[str, Mapping[str, type]] = {
    "metrics.jsonl": {"step": float, "epoch": float},
    "publishes.jsonl": {"step": float},
    "phases.jsonl": {"step": float, "set": dict},
    "health.jsonl": {"step": float, "rule": str},
    "evaluation.jsonl": {
        "name": str,
        "step": float,
        "reward": float,
        "reward_standard_error": float,
        "pass_rate": float,
        "solved_once": float,
    },
}
WORDS = {float: "a number", dict: "an object", str: "a text"}


PROMPT_DATE = "rollout.prompt_date"


def says_where(key: str) -> bool:
    """Whether a dotted key says where work is done."""
    return any(name in key for name in PLACEMENT_KEYS)


class RunFolder:
    """One run on disk. Writing raises RunFolderError that names the file and the cause (a full disk, for example)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = ""  # the configuration that the run goes on with
        self.config = path / "config.yaml"
        self.data = path / "data.jsonl"
        self.audit = path / "audit.jsonl"
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
        self.adapter = path / "adapter"
        self.curve = path / "reward.png"
        self.summary = path / "summary.json"
        self.tensorboard = path / "tensorboard"
        self.tracker_id = path / ".tracker"
        self.scaling = path / ".scaling"
        self.worker_logs = path / "worker_logs"

    @property
    def argument(self) -> str:
        """The folder as a word of a command line."""
        return shlex.quote(str(self.path))

    @contextmanager
    def opened(self, config: Config) -> Iterator["RunFolder"]:
        """Make the folder, or go on with it, and hold it against other processes until the block is left.

        It is left as it was, or not made, where the block raises before the run has new results.
        """
        with self.explained(self.path):
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
            lock = (self.path / ".lock").open("a")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunFolderError(
                    f"{self.path} is in use by another process; wait for it, or start another run with run.name=NAME"
                ) from None
            with left_as_it_was(self.path, made):
                self._check_config(config)
                yield self

    def may_differ(self, key: str) -> bool:
        """Return whether a key may have another value when the run is resumed, since it does not say what is learned."""
        return says_where(key) or (key in DATA_KEYS and self.data.exists())

    def is_going_on(self) -> bool:
        """Whether a process holds the folder; raises RunFolderError where no run has ever been started in it."""
        try:
            lock = (self.path / ".lock").open()
        except OSError as error:
            raise RunFolderError(
                f"{self.path} is not the folder of a run: no run was started there (.lock: {error.strerror})"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def load_progress(self, step: int) -> Progress:
        """Where the loop stood at a checkpoint; raises RunFolderError where that is not known."""
        if step == 0:
            return Progress()
        path = self._progress_file(step)
        try:
            return Progress.from_json(path.read_text())
        except (OSError, ValueError) as error:
            raise RunFolderError(f"cannot go on from step {step}: {path} cannot be read ({error})") from None

    def save_progress(self, step: int, state: str) -> None:
        """Keep the state that belongs to the checkpoint of this step."""
        self.write(self._progress_file(step), state)

    def forget_after(self, step: int) -> None:
        """Drop the rows of steps that a resumed run will do again, so that each step is reported once."""
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
                kept = [line for line in _lines(path) if _step_of(line) <= step]
                self.write(path, "".join(f"{line}\n" for line in kept))
        for path in (self.learning_log, self.time_log):
            if path.exists():
                self.write(path, "".join(f"{line}\n" for line in _lines(path)[:step]))
        for path in self.rollouts.glob("step-*"):
            if path.suffix == ".tmp" or int(path.name.split("-")[1]) > step:
                path.unlink()

    def num_problems(self, step: int) -> int:
        """How many training problems the run has, by what it wrote down at a step that has a checkpoint."""
        try:
            lines = _lines(self.metrics)
        except OSError as error:
            raise RunFolderError(f"{self.metrics} cannot be read ({error.strerror})") from None
        line = next((line for line in lines if _step_of(line) == step), None)
        if line is None:
            raise RunFolderError(f"{self.metrics} does not tell of step {step}, which has a checkpoint")
        return self.load_progress(step).problems_per_epoch(json.loads(line)["epoch"])

    def former_adapter(self, step: int) -> Path:
        """Where the adapter is of a run that ended at a step, and was extended."""
        return self.path / f"{self.adapter.name}-{step}"

    def reopen(self, step: int) -> None:
        """Let the end of a run that goes on be a step like others: its adapter and its evaluation are named after it."""
        former = self.former_adapter(step)
        with self.explained(self.path):
            if self.adapter.exists():
                shutil.rmtree(former, ignore_errors=True)  # the run ended there before; it holds the same
                self.adapter.rename(former)
            self.curve.unlink(missing_ok=True)
            self.summary.unlink(missing_ok=True)
        results = self.evaluations()
        if any(row["name"] == "after" for row in results):
            rows = [row | {"name": f"step {row['step']}"} if row["name"] == "after" else row for row in results]
            self.write(self.evaluation, "".join(f"{json.dumps(row)}\n" for row in rows))

    def link_worker_logs(self, logs: Path) -> None:
        """Point to where Ray keeps what its workers print."""
        with self.explained(self.worker_logs):
            self.worker_logs.unlink(missing_ok=True)
            self.worker_logs.symlink_to(logs)

    def append(self, path: Path, row: str) -> None:
        """Add one line to a file."""
        with self.explained(path), path.open("a", encoding="utf-8") as file:
            file.write(f"{row}\n")

    def append_json(self, path: Path, *rows: Mapping[str, Any]) -> None:
        """Add objects to a JSONL file, all at once."""
        if rows:
            self.append(path, "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))

    def write(self, path: Path, text: str) -> None:
        """Write a file whole or not at all."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with self.explained(path):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)

    def set_by_phases(self) -> dict[str, Any]:
        """What phases have set so far, by dotted key."""
        return {key: value for row in self.rows(self.phases, missing_ok=True) for key, value in row["set"].items()}

    def evaluations(self) -> list[dict[str, Any]]:
        """The held-out results so far, oldest first."""
        return self.rows(self.evaluation, missing_ok=True)

    def rows(self, path: Path, *, missing_ok: bool = False) -> list[dict[str, Any]]:
        """The objects of one of the run's JSONL files; RunFolderError where it cannot be read."""
        if not missing_ok and not path.exists():
            raise RunFolderError(f"{path} cannot be read: there is no such file")
        return list(whole_rows(path))

    def rollout_files(self, step: int | None = None) -> list[Path]:
        """The files of rollouts so far, or those of one step, in the order in which they were written."""
        return sorted(self.rollouts.glob("step-*.parquet" if step is None else f"step-{step:06d}-*.parquet"))

    def settings(self, *keys: str) -> dict[str, Any]:
        """What config.yaml says under these dotted keys; nothing of what it does not say, or where it cannot be read.

        It cannot in the folder of another trainer, which may have a config.yaml of its own.
        """
        try:
            tree = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        found = {}
        for key in keys:
            value = tree
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                found[key] = value
        return found

    def prompt_date(self) -> date | None:
        """The date that the run's prompts may name; None where it has none yet, or config.yaml cannot be read."""
        kept = self.settings(PROMPT_DATE).get(PROMPT_DATE)
        try:
            return None if kept is None else date.fromisoformat(str(kept))
        except ValueError:
            return None

    def _progress_file(self, step: int) -> Path:
        return self.progress / f"step-{step:06d}.json"

    def _check_config(self, config: Config) -> None:
        """Refuse to go on under another configuration; without a checkpoint there is nothing to go on with yet."""
        has_checkpoint = any(self.checkpoints.glob("checkpoint-*"))
        if self.config.exists():
            changed = self._changed(config)
            if changed and has_checkpoint:
                raise RunFolderError(
                    f"{self.path} was started with another configuration: {', '.join(changed)}. "
                    "Start another run with run.name=NAME, or give the old values to go on with this one; `caravan train "
                    f"--resume {self.argument} key=value` changes what may change on the way"
                )
            if changed:
                self.evaluation.unlink(missing_ok=True)  # measured under the other configuration
        elif has_checkpoint:
            raise RunFolderError(
                f"{self.path} holds checkpoints but no config.yaml: not a run that can be gone on with"
            )
        self._kept = dump_yaml(config)
        if not has_checkpoint:
            self.keep_config()

    def keep_config(self) -> None:
        """Have config.yaml say what the run goes on with: once it does, so that a start that fails changes nothing."""
        self.write(self.config, self._kept)

    def _changed(self, config: Config) -> list[str]:
        """The keys that say something else about what is learned than when the run was started."""
        try:
            before = flatten(validate(yaml.safe_load(self.config.read_text(encoding="utf-8"))))
        except (ConfigError, yaml.YAMLError) as error:
            raise RunFolderError(f"{self.config} cannot be read back: {error}") from None
        now = flatten(config)
        was = before["branches"]
        if now["branches"][: len(was)] == was:  # further ones are how a run is meant to change
            del now["branches"]
        other = {key: value for key, value in now.items() if value != before.get(key) and not self.may_differ(key)}
        if before[PROMPT_DATE] is None:
            other.pop(PROMPT_DATE, None)
        return [f"{key}={value} (was {before.get(key)})" for key, value in other.items()]

    @contextmanager
    def explained(self, path: Path) -> Iterator[None]:
        """Turn what goes wrong while writing a file into a RunFolderError."""
        try:
            yield
        except OSError as error:
            cause = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise RunFolderError(
                f"cannot write {path}: {cause}. What was written before is intact; make room or give another run.folder, "
                "then start again to go on from the last checkpoint"
            ) from error


def whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file that may be written to right now; none where there is no file.

    A last line without its end is not there yet. Raises RunFolderError for any other that cannot be read.
    """
    if not path.is_file():
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error.strerror})") from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            yield _row(path, number, line)


def _row(path: Path, number: int, line: str | bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("it is no object")
        for key, kind in NEEDED.get(path.name, {}).items():
            value = row.get(key)
            if not (is_finite(value) if kind is float else isinstance(value, kind)):
                raise ValueError(f"{key!r} is {json.dumps(value)[:40]}, not {WORDS[kind]}")
    except ValueError as error:
        raise RunFolderError(f"{path}, line {number}: cannot be read ({error})") from None
    return row


def _lines(path: Path) -> list[str]:
    """The lines of a file. Only a newline ends one: a completion may hold what else str.splitlines would cut at (U+2028, ...)."""
    # What was cut short by a full disk may end within a character.
    *lines, last = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [*lines, last] if last else lines


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 1 << 62  # a line that was cut by a crash


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether this is a number to compute with: neither missing nor infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
