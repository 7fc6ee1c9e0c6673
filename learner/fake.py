"""A learner without a model, for tests and dry runs of the parts around it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cluster.errors import LearnerError
from cluster.types import Group, PolicyVersion, StepReport
from learner.batch.selection import select
from learner.overrides import apply_overrides
from learner.settings import LearnerSettings
from learner.training.checkpoints import newest_checkpoint, step_of, write_checkpoint, write_files


class FakeLearner:
    """Behaves like learner.client.RayLearner: numbers its policies, refuses the same batches, and records its inputs.

    With a ``checkpoints_dir`` it resumes from the newest checkpoint there. Its reports have the advantages of the completions
    that would enter the loss; without a ``max_staleness`` no token is stale.
    """

    def __init__(
        self,
        checkpoints_dir: Path | None = None,
        *,
        settings: LearnerSettings = LearnerSettings(),  # noqa: B008 - frozen
        max_steps: int | None = None,
        max_staleness: int = sys.maxsize,
    ) -> None:
        self.steps: list[tuple[Group, ...]] = []
        self.active_overrides: list[Mapping[str, Any]] = []  # per step
        self.closed = False
        self._checkpoints_dir = checkpoints_dir
        self._settings = settings
        self._max_steps = max_steps
        self._max_staleness = max_staleness
        self._step = 0

    async def start(self) -> PolicyVersion | None:
        """Resume from the newest checkpoint if there is one."""
        newest = newest_checkpoint(self._checkpoints_dir) if self._checkpoints_dir else None
        self._step = step_of(newest) if newest else 0
        return self._policy() if newest else None

    async def step(
        self, groups: Sequence[Group], active_overrides: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[PolicyVersion, StepReport]:
        """Count a step; raises LearnerError if no completion can enter the loss, after max_steps and after close."""
        if self.closed:
            raise LearnerError("the learner is closed")
        if self._step == self._max_steps:
            raise LearnerError("all max_steps of the run are done: no further step can be taken")
        selection = select(
            groups,
            settings=apply_overrides(self._settings, active_overrides),
            learner_version=self._step,
            max_staleness=self._max_staleness,
            temperature=1.0,
        )
        self.steps.append(tuple(groups))
        self.active_overrides.append(active_overrides)
        self._step += 1
        report = StepReport(
            step=self._step,
            metrics={
                "loss": 0.0,
                "grad_norm": 0.0,
                "num_completions": float(len(selection.rows)),
                "stale_token_share": selection.stale_share,
                "seconds": 0.0,
            },
            advantages={row.completion_id: row.advantage for row in selection.rows},
            excluded=selection.excluded,
        )
        return self._policy(), report

    async def save_checkpoint(self) -> str:
        """Write a checkpoint with the fake adapter."""
        if self._checkpoints_dir is None:
            raise LearnerError("this FakeLearner has no checkpoints_dir")
        adapter = self._policy().adapter
        return str(write_checkpoint(self._checkpoints_dir, self._step, lambda to: write_files(adapter, to), keep=3))

    async def export_adapter(self, folder: Path) -> None:
        """Write the fake adapter."""
        write_files(self._policy().adapter, folder)

    async def describe(self) -> str:
        """Describe the learner in one line."""
        return "learner: a fake"

    async def close(self) -> None:
        """Refuse further steps."""
        self.closed = True

    def _policy(self) -> PolicyVersion:
        return PolicyVersion(
            number=self._step, adapter={"adapter_config.json": b"{}", "adapter_model.safetensors": b""}
        )
