"""The folder of a small run, with a real learner that gets its batches from the test, and a real ledger."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import View
from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.run_folder import RunFolder
from cluster.loop.metrics import group_metrics
from cluster.run.recorder import RunRecorder
from cluster.run.session import learner_plan
from cluster.types import Drop, DropReason, Group
from tests.learner.factories import group, updated_in_flight

MAX_STEPS = 4
SETTINGS = (
    "model.path=tiny",
    "loop.epochs=1",  # the number of steps of the learning-rate schedule comes from the test
    "loop.max_staleness=1",
    "learner.learning_rate=1e-3",
    "lr_scheduler_type=linear",
    "learner.kl_coefficient=0.01",
    "learner.kl_target=1e-4",
    "learner.kl_horizon=20",
    "learner.lora.r=12",  # not a rank of vLLM
    "learner.lora.alpha=28",
    "learner.lora.use_rslora=true",
    "learner.lora.dropout=0.1",
    "learner.micro_batch_tokens=64",
)


ACTIVE_OVERRIDES = {
    3: {"learning_rate": 2e-3, "reward_weight": 1.5},
    4: {"train_top_k": 1, "kl_target": 2e-4},
}  # by step


def config() -> Config:
    return load_config(None, SETTINGS, environment={})


def batch(step: int, *, seed: int = 0) -> list[Group]:
    """Two groups of a step: one sampled by two policy versions, one with an ungradable completion."""
    first, second = seed + 10 * step, seed + 10 * step + 1
    changed = group([1.0, 0.0, 0.3], seed=first, logprob=-3.14159265358979)
    return [
        updated_in_flight(changed, [1, 1, 0], old=max(0, step - 3), new=max(0, step - 2)),
        updated_in_flight(
            group([0.1 + 0.2, None, 0.0], seed=second, logprob=-2.71828182845905), [0, 0, 0], old=0, new=step - 1
        ),
    ]


class Start:
    """One start of the run."""

    def __init__(self, folder: RunFolder, *, max_steps: int = MAX_STEPS) -> None:
        from learner.worker import LearnerWorker

        self._folder = folder
        self._records = RunRecorder(folder, View(), lambda _: None)
        self.learner = LearnerWorker(
            config().learner,
            learner_plan(config(), max_steps=max_steps, probe_ids=((5, 6, 7),), checkpoints_dir=folder.checkpoints),
        )
        self._max_steps = max_steps
        policy = self.learner.start()
        self._num_steps = policy.number if policy else 0
        folder.truncate_after(self._num_steps)

    def step(self, groups: Sequence[Group]) -> None:
        active_overrides = ACTIVE_OVERRIDES.get(self._num_steps + 1, {})
        _, report = self.learner.step(groups, active_overrides)
        self._num_steps = report.step
        dropped = group([0.5, 0.5], seed=1000 + report.step)
        self._records.group_dropped(
            DroppedGroup(group=dropped, group_size=3, drop=Drop(DropReason.NO_SIGNAL)), report.step - 1
        )
        metrics = {**group_metrics(groups), **report.metrics, "tokens_per_second": 1.0, "step_seconds": 1.0}
        metrics["max_steps"] = float(self._max_steps)
        self._records.step_done(0.1, groups, report, metrics, active_overrides)


def make_unfinished(path: Path) -> Path:
    """Make a run that was interrupted once, repeated a step on other completions, and was killed a step after a checkpoint."""
    folder = RunFolder(path)
    with folder.opened(config()):
        first = Start(folder)
        first.step(batch(1))
        first.learner.save_checkpoint()
        first.step(batch(2, seed=500))  # lost, because no checkpoint follows
        first.learner.close()
        second = Start(folder)
        second.step(batch(2))
        second.step(batch(3))
        second.learner.save_checkpoint()
        second.step(batch(4))
        second.learner.close()
    return folder.path


def make_finished(unfinished: Path, path: Path) -> Path:
    """Copy a run and resume it until its last step."""
    folder = RunFolder(path)
    shutil.copytree(unfinished, folder.path)
    with folder.opened(config()):
        last = Start(folder)
        last.step(batch(4))
        last.learner.save_checkpoint()
        last.learner.export_adapter(str(folder.adapter))
        last.learner.close()
    return folder.path


def make_extended(finished: Path, path: Path) -> Path:
    """Copy a finished run and extend it by two steps; the learning rate falls linearly to the new end."""
    folder = RunFolder(path)
    shutil.copytree(finished, folder.path)
    with folder.opened(config()):
        folder.reopen(MAX_STEPS)
        longer = Start(folder, max_steps=MAX_STEPS + 2)
        for step in (MAX_STEPS + 1, MAX_STEPS + 2):
            longer.step(batch(step))
        longer.learner.save_checkpoint()
        longer.learner.export_adapter(str(folder.adapter))
        longer.learner.close()
    return folder.path
