"""The learner as the driver sees it: a Ray actor, and the client that starts another one where it is lost."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.types import CaravanError, Group, LearnerError, PolicyVersion, StepReport
from learner.checkpoints import newest_checkpoint, step_of
from learner.plan import LearnerPlan
from learner.quiet import ENVIRONMENT, hush
from learner.reason import reason
from learner.room import wait_for_room
from learner.settings import LearnerSettings

logger = logging.getLogger(__name__)

DEADLINES = {
    "start": "start_deadline_seconds",
    "step": "step_deadline_seconds",
    "save_checkpoint": "save_deadline_seconds",
    "export_adapter": "save_deadline_seconds",
}
"""The setting, by method of the actor, that says how long anyone waits for its answer."""


class LearnerActor:
    """Runs inside the actor's process, where the heavy imports happen."""

    def __init__(self, settings: LearnerSettings, plan: LearnerPlan) -> None:
        hush()
        from learner.worker import LearnerWorker

        self._worker = LearnerWorker(settings, plan)

    def start(self) -> PolicyVersion | None:
        """See LearnerWorker."""
        return self._worker.start()

    def step(self, groups: Sequence[Group], in_force: Mapping[str, Any]) -> tuple[PolicyVersion, StepReport]:
        """See LearnerWorker."""
        return self._worker.step(groups, in_force)

    def save_checkpoint(self) -> str:
        """See LearnerWorker."""
        return self._worker.save_checkpoint()

    def export_adapter(self, folder: str) -> None:
        """See LearnerWorker."""
        self._worker.export_adapter(folder)

    def close(self) -> None:
        """See LearnerWorker."""
        self._worker.close()


class _Lost(Exception):
    """The learner's process died, or does not answer; what it knew is in the checkpoints."""


class RayLearner:
    """A cluster.types.Learner in a Ray actor of its own.

    Where its process dies or does not answer in time, another one takes its place: it goes on from the newest complete
    checkpoint, takes the steps since then again on the same batches (which wait in the object store until the next checkpoint),
    and answers the call that was interrupted. So a batch is trained once in what leads to the current policy, and a policy
    number always means the same adapter. That is done once per call: LearnerError where the successor is lost before it answers.

    Every call also raises what the learner itself raised, and ResourcesError where the cluster has no room for the process. The
    process ends with ``close()``, whatever state it is in.
    """

    def __init__(self, settings: LearnerSettings, plan: LearnerPlan) -> None:
        self.num_restarts = 0  # how often a process was lost and replaced
        self._settings = settings
        self._plan = _with_absolute_paths(plan)
        self._actor: Any = None
        self._is_closed = False
        self._saved_step = 0  # of the newest complete checkpoint
        # One per step taken since then, oldest first, each with the settings that were in force.
        self._batches: list[tuple[ray.ObjectRef, dict[str, Any]]] = []

    async def start(self) -> PolicyVersion | None:
        """Place the actor, load the model and the newest complete checkpoint; return its policy, None when fresh.

        Raises ModelError where the model cannot be loaded, ResourcesError where the cluster has no room.
        """
        newest = newest_checkpoint(self._plan.checkpoints_dir)
        self._saved_step = step_of(newest) if newest else 0
        try:
            policy = await self._start_actor()
        except _Lost as lost:
            policy = await self._replace(lost)
        self._saved_step = policy.number if policy else 0
        return policy

    async def step(
        self, groups: Sequence[Group], in_force: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[PolicyVersion, StepReport]:
        """Train on whole groups, with these settings in force; raises LearnerError where it diverges or cannot learn."""
        batch = await asyncio.to_thread(ray.put, groups)
        outcome: tuple[PolicyVersion, StepReport] = await self._answer("step", batch, dict(in_force))
        self._batches.append((batch, dict(in_force)))
        return outcome

    async def save_checkpoint(self) -> str:
        """Write a complete checkpoint for the current step and return its folder."""
        folder: str = await self._answer("save_checkpoint")
        self._saved_step += len(self._batches)
        self._batches.clear()
        return folder

    async def export_adapter(self, folder: Path) -> None:
        """Write the current adapter in PEFT format, as peft, transformers and vLLM load it."""
        await self._answer("export_adapter", str(Path.cwd() / folder))

    async def close(self) -> None:
        """End the actor's process; may be called twice. A call that is under way raises LearnerError."""
        self._is_closed = True
        self._kill()

    async def _answer(self, method: str, *arguments: Any) -> Any:
        """What the learner answers, or its successor where it is lost."""
        if self._actor is None:
            raise LearnerError(f"learner.{method}: the learner is not running (not started, lost, or closed)")
        try:
            return await self._call(method, *arguments)
        except _Lost as lost:
            if self._is_closed:
                raise LearnerError(f"the learner was closed during {method}") from lost
            return await self._replace(lost, method, *arguments)

    async def _replace(self, lost: _Lost, method: str | None = None, *arguments: Any) -> Any:
        """Start another process, bring it to where the lost one was, and return what it answers to the interrupted call.

        Without a ``method`` that call is the start. Raises LearnerError, with nothing left running, where it is lost too.
        """
        self.num_restarts += 1
        logger.warning(
            "%s; it is started again from step %d, steps to take again: %d", lost, self._saved_step, len(self._batches)
        )
        try:
            policy = await self._start_actor()
            if method is None:
                return policy
            await self._take_again(policy)
            return await self._call(method, *arguments)
        except _Lost as again:
            self._kill()
            raise LearnerError(
                f"{lost}; it was started again, and {again}. If memory ran out, lower learner.micro_batch_tokens or set "
                f"learner.gradient_checkpointing. Start again with the same command to go on from {self._newest()}"
            ) from again

    async def _take_again(self, policy: PolicyVersion | None) -> None:
        """Repeat the steps since the checkpoint that a new process has loaded."""
        step = policy.number if policy else 0
        # One that died after it had written a checkpoint, and before it could say so, left a newer one than we know of.
        num_saved = step - self._saved_step
        if not 0 <= num_saved <= len(self._batches):
            self._kill()
            raise LearnerError(
                f"the learner was started again and found its newest checkpoint at step {step}, where it should be at step "
                f"{self._saved_step} to {self._saved_step + len(self._batches)}: {self._plan.checkpoints_dir} was changed by "
                "somebody else, or is not the same folder on every machine"
            )
        try:
            for batch, in_force in self._batches[num_saved:]:
                await self._call("step", batch, in_force)
        except BaseException:
            self._kill()  # half of the way is a state that nobody may save
            raise

    async def _start_actor(self) -> PolicyVersion | None:
        self._kill()
        await wait_for_room(self._settings, hint=f"start again with the same command to go on from {self._newest()}")
        if self._is_closed:
            raise LearnerError("the learner was closed while it was started")
        environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(self._settings.num_threads)}
        remote_class = ray.remote(LearnerActor).options(
            num_cpus=self._settings.cpus, num_gpus=self._settings.gpus, runtime_env={"env_vars": environment}
        )
        self._actor = remote_class.remote(self._settings, self._plan)
        policy: PolicyVersion | None = await self._call("start")
        return policy

    async def _call(self, method: str, *arguments: Any) -> Any:
        """One answer of the process there is; raises _Lost where it does not give one."""
        deadline = DEADLINES[method]
        seconds = getattr(self._settings, deadline)
        try:
            return await asyncio.wait_for(getattr(self._actor, method).remote(*arguments), seconds)
        except TimeoutError:
            raise _Lost(
                f"learner.{method} did not answer within {seconds:g} s (if it was only slow, raise learner.{deadline})"
            ) from None
        except RayTaskError as error:
            if isinstance(error.cause, CaravanError):
                raise error.cause from None
            raise LearnerError(f"learner.{method} failed: {reason(error.cause)}") from error
        except RayError as error:
            raise _Lost(f"the learner's process died during {method} ({reason(error)})") from error

    def _kill(self) -> None:
        actor, self._actor = self._actor, None
        if actor is not None:
            ray.kill(actor, no_restart=True)

    def _newest(self) -> str:
        return f"checkpoint step {self._saved_step}" if self._saved_step else "the beginning: none was saved yet"


def _with_absolute_paths(plan: LearnerPlan) -> LearnerPlan:
    """Actors may start in another working directory than the driver's."""
    model = Path(plan.model)
    return replace(
        plan,
        model=str(model.absolute()) if model.is_dir() else plan.model,
        checkpoints_dir=plan.checkpoints_dir.absolute(),
    )
