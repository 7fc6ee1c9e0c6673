"""``caravan replay``: train a run's steps again from its ledger, without samplers, graders or Ray.

The learner's result depends only on its batches and their order, and the ledger stores both. A replay therefore reaches the
adapter, or the model, of the run: on the CPU bit for bit, even if the run was interrupted or its learner was replaced.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cluster.actors.gpus import hide_gpus
from cluster.config.config import Config, validate
from cluster.console import output
from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.batches import batch_of
from cluster.ledger.run_folder import RunFolder
from cluster.run.session import learner_plan
from learner.adapter_folder import read_adapter
from learner.training.checkpoints import newest_checkpoint, step_of
from learner.training.quiet import silence_libraries

if TYPE_CHECKING:
    import numpy as np

Weights = Mapping[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """The weights that a replay should reach: an adapter, or a whole model."""

    weights: Path  # their folder
    step: int  # step at which it was saved


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged:
    """The row of a step in the run's metrics."""

    active_overrides: Mapping[str, Any]  # learner settings that differed in this step
    loss: float
    max_steps: int  # length of the run at that time, which the learning-rate schedule uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """Difference between the weights of a replay and of the run."""

    num_differing: int  # tensors that differ in any bit
    largest_difference: float  # between two weights; 0 if nothing differs
    first_different_step: int | None  # first step whose loss differs from the logged one


def replay_and_report(run: Path, out: Path | None) -> int:
    """Train from a run's ledger and print the difference; returns 0 if the weights are the same bit for bit, else 1.

    ``out`` is a folder for the weights. Raises RunFolderError for a run that cannot be replayed, ConfigError for ``out``, and
    the learner's errors.
    """
    folder = RunFolder(run)
    config = _config_of(folder)
    if config.learner.num_ranks > 1:
        raise RunFolderError(
            f"{folder.path} cannot be replayed: its steps were computed by learner.num_ranks={config.learner.num_ranks} "
            "processes, whose sums are rounded differently from those of a single one"
        )
    logged = _logged(folder)
    goal = find_goal(folder, config, last_step=max(logged, default=0))
    if out:
        _prepare(out, folder)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output(stderr=True)) as progress:
        task = progress.add_task("replaying steps", total=goal.step)
        outcome = replay(folder, config, goal, logged, out=out, on_step=lambda: progress.advance(task))
    console = output()
    for line in _result_lines(goal, outcome, out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 1 if outcome.num_differing else 0


def find_goal(folder: RunFolder, config: Config, *, last_step: int) -> Goal:
    """The final weights of a run, or those of its newest checkpoint; raises RunFolderError if it has neither."""
    newest, final = newest_checkpoint(folder.checkpoints), folder.final(config.learner.method)
    if _weight_files(final):
        return Goal(weights=final, step=last_step)
    if newest is None:
        raise RunFolderError(
            f"{folder.path} has no {final.name} and no checkpoint to compare a replay with: resume the run until its first "
            "checkpoint (loop.save_every_steps), or give the folder of another run"
        )
    return Goal(weights=newest, step=step_of(newest))


def replay(
    folder: RunFolder,
    config: Config,
    goal: Goal,
    logged: Mapping[int, Logged],
    *,
    out: Path | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Replayed:
    """Train up to the step of ``goal``; ``on_step`` is called after each step. Raises RunFolderError and LearnerError."""
    silence_libraries()
    if config.learner.gpus == 0:
        hide_gpus()
    from learner.worker import LearnerWorker

    expected = _read_weights(goal.weights)
    initial = read_adapter(folder.initial_adapter).files if config.learner.adapter else None
    first_different_step = None
    with tempfile.TemporaryDirectory(prefix="caravan-replay-") as scratch:
        untrained, trained = Path(scratch) / "untrained", out or Path(scratch) / "trained"
        for max_steps, steps in _windows_by_length(folder, logged, goal.step):
            plan = learner_plan(
                config,
                max_steps=max_steps,
                probe_ids=(),
                checkpoints_dir=Path(scratch) / "checkpoints",
                initial_adapter=initial,
            )
            learner = LearnerWorker(config.learner, plan)
            try:
                policy = learner.start()
                if policy is None or policy.number == 0:
                    learner.export_adapter(str(untrained))
                    _check_same_shapes(expected, _read_weights(untrained), plan.model, goal)
                for step in steps:
                    _, report = learner.step(batch_of(folder, step), logged[step].active_overrides)
                    if first_different_step is None and report.metrics["loss"] != logged[step].loss:
                        first_different_step = step
                    on_step()
                learner.save_checkpoint()  # the next window resumes from it, as the run did
                learner.export_adapter(str(trained))
            finally:
                learner.close()
        reached = _read_weights(trained)
    differing = [name for name in expected if expected[name].tobytes() != reached[name].tobytes()]
    return Replayed(
        num_differing=len(differing),
        largest_difference=max((float(abs(expected[name] - reached[name]).max()) for name in differing), default=0.0),
        first_different_step=first_different_step,
    )


def _result_lines(goal: Goal, outcome: Replayed, out: Path | None) -> list[str]:
    if outcome.num_differing:
        since = (
            f"; the loss differs from step {outcome.first_different_step} on" if outcome.first_different_step else ""
        )
        lines = [
            f"after {goal.step} steps the weights differ from {goal.weights}: {outcome.num_differing} tensors differ, by "
            f"{outcome.largest_difference:.3g} at most{since}"
        ]
    else:
        lines = [f"after {goal.step} steps the weights equal {goal.weights} bit for bit"]
    return lines + ([f"weights: {out}"] if out else [])


def _prepare(out: Path, folder: RunFolder) -> None:
    """Create the output folder; raises ConfigError, before the training, if it is part of the run or cannot be created."""
    if folder.path.resolve() in (out.resolve(), *out.resolve().parents):
        raise ConfigError(f"--out {out} is in the folder of the run itself; choose another one")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be created ({error.strerror}); choose another folder") from None


def _config_of(folder: RunFolder) -> Config:
    try:
        return validate(yaml.safe_load(folder.config.read_text(encoding="utf-8")))
    except OSError as error:
        cause = error.strerror
    except (yaml.YAMLError, ConfigError) as error:
        cause = " ".join(str(error).split())
    raise RunFolderError(f"{folder.path} cannot be replayed: {folder.config} cannot be read ({cause})")


def _logged(folder: RunFolder) -> dict[int, Logged]:
    """The records of all steps, by step; raises RunFolderError."""
    rows = folder.rows(folder.metrics)
    try:
        return {
            row["step"]: Logged(
                active_overrides=row.get("in_force", {}), loss=row["loss"], max_steps=int(row["max_steps"])
            )
            for row in rows
        }
    except KeyError as error:
        raise RunFolderError(f"{folder.metrics} cannot be read: a row lacks {error}") from None


def _windows_by_length(folder: RunFolder, logged: Mapping[int, Logged], last_step: int) -> list[tuple[int, list[int]]]:
    """Pairs of a run length and the steps taken under it; an extended run has several."""
    missing = [step for step in range(1, last_step + 1) if step not in logged]
    if missing:
        raise RunFolderError(f"{folder.metrics} lacks step {missing[0]}: no later one can be replayed")
    by_length = groupby(range(1, last_step + 1), key=lambda step: logged[step].max_steps)
    return [(max_steps, list(steps)) for max_steps, steps in by_length]


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _read_weights(folder: Path) -> Weights:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    weights: dict[str, np.ndarray[Any, Any]] = {}
    for path in _weight_files(folder):
        try:
            weights |= load_file(path)
        except (OSError, SafetensorError) as error:
            raise RunFolderError(f"{path} cannot be read: {error}") from None
    return weights


def _check_same_shapes(expected: Weights, actual: Weights, model: str, goal: Goal) -> None:
    """Raise RunFolderError, before the training, if the base model cannot be that of the run."""
    other = [
        name
        for name in sorted(expected.keys() | actual.keys())
        if name not in expected or name not in actual or expected[name].shape != actual[name].shape
    ]
    if other:
        raise RunFolderError(
            f"{goal.weights} was not trained on {model} as it is now: {len(other)} of its tensors have no counterpart of "
            f"their shape, for example {other[0]}. Use the model of the run"
        )
