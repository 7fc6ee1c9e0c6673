"""The learner as the driver sees it: a Ray actor, and the client that waits for it no longer than it should."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.types import CaravanError, DeadlineExceeded, Group, LearnerError, PolicyVersion, StepReport
from learner.plan import LearnerPlan
from learner.quiet import ENVIRONMENT, hush
from learner.reason import reason
from learner.settings import LearnerSettings


class LearnerActor:
    """Runs inside the actor's process, where the heavy imports happen."""

    def __init__(self, settings: LearnerSettings, plan: LearnerPlan) -> None:
        hush()
        from learner.worker import LearnerWorker

        self._worker = LearnerWorker(settings, plan)

    def start(self) -> PolicyVersion | None:
        """See LearnerWorker."""
        return self._worker.start()

    def step(self, groups: Sequence[Group]) -> tuple[PolicyVersion, StepReport]:
        """See LearnerWorker."""
        return self._worker.step(groups)

    def save_checkpoint(self) -> str:
        """See LearnerWorker."""
        return self._worker.save_checkpoint()

    def export_adapter(self, folder: str) -> None:
        """See LearnerWorker."""
        self._worker.export_adapter(folder)

    def close(self) -> None:
        """See LearnerWorker."""
        self._worker.close()


class RayLearner:
    """A cluster.types.Learner in a Ray actor of its own.

    Every call raises DeadlineExceeded where the actor does not answer in time, LearnerError where it died, and otherwise what the
    learner itself raised. Its process ends with ``close()``, whatever state it is in.
    """

    def __init__(self, settings: LearnerSettings, plan: LearnerPlan) -> None:
        self._settings = settings
        self._plan = _with_absolute_paths(plan)
        self._actor: Any = None

    async def start(self) -> PolicyVersion | None:
        """Place the actor, load the model and the newest complete checkpoint; return its policy, None when fresh.

        Raises ModelError where the model cannot be loaded.
        """
        environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(self._settings.num_threads)}
        remote_class = ray.remote(LearnerActor).options(
            num_cpus=self._settings.cpus, num_gpus=self._settings.gpus, runtime_env={"env_vars": environment}
        )
        self._actor = remote_class.remote(self._settings, self._plan)
        policy: PolicyVersion | None = await self._call("start", deadline="start_deadline_seconds")
        return policy

    async def step(self, groups: Sequence[Group]) -> tuple[PolicyVersion, StepReport]:
        """Train on whole groups; raises LearnerError where it diverges or nothing can be learned from."""
        outcome: tuple[PolicyVersion, StepReport] = await self._call("step", groups, deadline="step_deadline_seconds")
        return outcome

    async def save_checkpoint(self) -> str:
        """Write a complete checkpoint for the current step and return its folder."""
        folder: str = await self._call("save_checkpoint", deadline="save_deadline_seconds")
        return folder

    async def export_adapter(self, folder: Path) -> None:
        """Write the current adapter in PEFT format, as peft, transformers and vLLM load it."""
        await self._call("export_adapter", str(Path.cwd() / folder), deadline="save_deadline_seconds")

    async def close(self) -> None:
        """End the actor's process; may be called twice."""
        actor, self._actor = self._actor, None
        if actor is not None:
            ray.kill(actor, no_restart=True)

    async def _call(self, method: str, *arguments: Any, deadline: str) -> Any:
        if self._actor is None:
            raise LearnerError(f"learner.{method}: the learner is not running (not started, or closed)")
        seconds = getattr(self._settings, deadline)
        try:
            return await asyncio.wait_for(getattr(self._actor, method).remote(*arguments), seconds)
        except TimeoutError:
            raise DeadlineExceeded(
                f"learner.{method} did not answer within {seconds:g} s; if it was only slow, raise learner.{deadline}"
            ) from None
        except RayTaskError as error:
            if isinstance(error.cause, CaravanError):
                raise error.cause from None
            raise LearnerError(f"learner.{method} failed: {reason(error.cause)}") from error
        except RayError as error:
            raise LearnerError(
                f"the learner's process died during {method} ({reason(error)}); out of memory is the usual "
                "cause: lower learner.micro_batch_size or set learner.gradient_checkpointing. The checkpoints are intact"
            ) from error


def _with_absolute_paths(plan: LearnerPlan) -> LearnerPlan:
    """Actors may start in another working directory than the driver's."""
    model = Path(plan.model)
    return replace(
        plan,
        model=str(model.absolute()) if model.is_dir() else plan.model,
        checkpoints_dir=plan.checkpoints_dir.absolute(),
    )
