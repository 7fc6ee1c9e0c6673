"""The learner as the driver sees it: a client of its ranks that keeps their checkpoints and replaces all where one is lost."""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray

from cluster.actors.calls import answer
from cluster.actors.resources import wait_for_resources
from cluster.errors import LearnerError
from cluster.types import Group, PolicyVersion, ProbePrompt, StepReport
from learner.actor import LearnerActor
from learner.batch.selection import select
from learner.overrides import apply_overrides
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings
from learner.training.checkpoints import (
    checkpoint_error,
    newest_checkpoint,
    read_files,
    step_of,
    write_adapter,
    write_checkpoint,
    write_files,
)
from learner.training.divergence import FOLDER, Diverged, write_diverged_batch
from learner.training.quiet import ENVIRONMENT

logger = logging.getLogger(__name__)

PLACEMENT_SECONDS = 60.0
"""Deadline at the start of a run for resources that ending actors still hold."""

GRACE_SECONDS = 30.0
"""How long the other ranks are listened to where one has failed: they may know more, or wait for it and never answer."""

DEADLINES = {
    "open_rendezvous": "start_deadline_seconds",
    "start": "start_deadline_seconds",
    "step": "step_deadline_seconds",
    "save_checkpoint": "save_deadline_seconds",
    "adapter_files": "save_deadline_seconds",
    "probe": "start_deadline_seconds",
}
"""The setting, by method of the actor, that says how long anyone waits for its answer."""


class _Lost(Exception):
    """A process of the learner died, or does not answer; what it knew is in the checkpoints."""


class RayLearner:
    """A cluster.types.Learner in Ray actors of its own, one for each of ``learner.num_ranks``.

    Where a process dies or does not answer in time, others take the place of all: they go on from the newest complete
    checkpoint, take the steps since then again on the same batches (which wait in the object store until the next checkpoint),
    and answer the call that was interrupted. So a batch is trained once in what leads to the current policy, and a policy
    number always means the same adapter. That is done once per call: LearnerError where a successor is lost before it answers.

    Every call also raises what the learner itself raised, and ResourcesError where the cluster has no room for the processes.
    They end with ``close()``, whatever state they are in.
    """

    def __init__(self, settings: LearnerSettings, plan: LearnerPlan) -> None:
        self.num_restarts = 0  # how often a process was lost and replaced
        self._settings = settings
        self._plan = _with_absolute_paths(plan)
        self._actors: list[Any] = []  # by rank
        self._is_closed = False
        self._writing: asyncio.Task[Path] | None = None  # a checkpoint, to the disk
        self._saved_step = 0  # of the newest complete checkpoint
        # One per step taken since then, oldest first, each with the settings that were in force.
        self._batches: list[tuple[ray.ObjectRef, dict[str, Any]]] = []

    async def start(self) -> PolicyVersion | None:
        """Place the actors, load the model and the newest complete checkpoint; return its policy, None when fresh.

        Raises ModelError where the model cannot be loaded, ResourcesError where the cluster has no room.
        """
        newest = newest_checkpoint(self._plan.checkpoints_dir)
        self._saved_step = step_of(newest) if newest else 0
        try:
            policy = await self._start_actors()
        except _Lost as lost:
            policy = await self._replace(lost)
        self._saved_step = policy.number if policy else 0
        return policy

    async def step(
        self, groups: Sequence[Group], active_overrides: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[PolicyVersion, StepReport]:
        """Train on whole groups, with these settings in force; raises LearnerError where it diverges or cannot learn."""
        batch = await asyncio.to_thread(ray.put, groups)
        try:
            outcome: tuple[PolicyVersion, StepReport] = await self._answer("step", batch, dict(active_overrides))
        except Diverged as error:
            raise LearnerError(f"{error}. {self._kept_aside(groups, active_overrides)}") from error
        self._batches.append((batch, dict(active_overrides)))
        return outcome

    async def save_checkpoint(self) -> str:
        """Write a complete checkpoint for the current step and return its folder."""
        step, files = await self._answer("save_checkpoint")
        root, keep = self._plan.checkpoints_dir, self._settings.save_total_limit
        if self._writing:  # where a save was cancelled: its thread goes on, and no two may write at a time
            await asyncio.wait({self._writing})
        write = partial(write_checkpoint, root, step, lambda draft: write_files(files, draft), keep=keep)
        self._writing = asyncio.create_task(asyncio.to_thread(write))
        try:
            folder = await asyncio.shield(self._writing)
        except OSError as error:
            raise checkpoint_error(root, error) from error
        self._saved_step += len(self._batches)
        self._batches.clear()
        return str(folder)

    async def export_adapter(self, folder: Path) -> None:
        """Write the current adapter in PEFT format, as peft, transformers and vLLM load it."""
        await asyncio.to_thread(write_adapter, await self._answer("adapter_files"), folder)

    async def probe(self) -> ProbePrompt | None:
        """The plan's probe prompt as the current policy scores it: that of the base model before the first step."""
        probe: ProbePrompt | None = await self._answer("probe")
        return probe

    async def close(self) -> None:
        """End the actors' processes; may be called twice. A call that is under way raises LearnerError."""
        self._is_closed = True
        self._kill()

    async def _answer(self, method: str, *arguments: Any) -> Any:
        """What the learner answers, or its successor where it is lost."""
        if not self._actors:
            raise LearnerError(f"learner.{method}: the learner is not running (not started, lost, or closed)")
        try:
            return await self._call(method, *arguments)
        except _Lost as lost:
            if self._is_closed:
                raise LearnerError(f"the learner was closed during {method}") from lost
            return await self._replace(lost, method, *arguments)

    async def _replace(self, lost: _Lost, method: str | None = None, *arguments: Any) -> Any:
        """Start others, bring them to where the lost ones were, and return what they answer to the interrupted call.

        Without a ``method`` that call is the start. Raises LearnerError, with nothing left running, where one is lost too.
        """
        self.num_restarts += 1
        logger.warning(
            "%s; it is started again from step %d, steps to take again: %d", lost, self._saved_step, len(self._batches)
        )
        try:
            policy = await self._start_actors()
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
        # A call that was cancelled while it wrote a checkpoint left a newer one than we know of.
        num_saved = step - self._saved_step
        if not 0 <= num_saved <= len(self._batches):
            self._kill()
            raise LearnerError(
                f"the learner was started again and found its newest checkpoint at step {step}, where it should be at step "
                f"{self._saved_step} to {self._saved_step + len(self._batches)}: {self._plan.checkpoints_dir} was changed by "
                "somebody else"
            )
        try:
            for batch, active_overrides in self._batches[num_saved:]:
                await self._call("step", batch, active_overrides)
        except BaseException:
            self._kill()  # half of the way is a state that nobody may save
            raise

    async def _start_actors(self) -> PolicyVersion | None:
        self._kill()
        settings = self._settings
        # After the loss of a machine another may join.
        seconds = PLACEMENT_SECONDS if self.num_restarts == 0 else settings.start_deadline_seconds
        await wait_for_resources(
            "learner",
            settings.bundle,
            settings.num_ranks,
            free_seconds=seconds,
            join_seconds=seconds,
            advice="Wait for what else runs there, or lower learner.cpus, learner.gpus or learner.num_ranks; the same command "
            f"resumes the run from {self._newest()}",
        )
        if self._is_closed:
            raise LearnerError("the learner was closed while it was started")
        environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(settings.num_threads)}
        remote_class = ray.remote(LearnerActor).options(
            num_cpus=settings.cpus, num_gpus=settings.gpus, runtime_env={"env_vars": environment}
        )
        self._actors = [remote_class.remote(settings, self._plan, number) for number in range(settings.num_ranks)]
        meeting = await self._call("open_rendezvous", ranks=1) if settings.num_ranks > 1 else None
        policy: PolicyVersion | None = await self._call("start", meeting, await asyncio.to_thread(self._checkpoint))
        return policy

    def _checkpoint(self) -> ray.ObjectRef | None:
        """The newest complete one, in the object store."""
        newest = newest_checkpoint(self._plan.checkpoints_dir)
        return ray.put((step_of(newest), read_files(newest))) if newest else None

    def _kept_aside(self, groups: Sequence[Group], active_overrides: Mapping[str, Any]) -> str:
        """Write the batch of a step that was not taken beside the checkpoints, and say where."""
        step = self._saved_step + len(self._batches)
        selection = select(
            groups,
            settings=apply_overrides(self._settings, active_overrides),
            learner_version=step,
            max_staleness=self._plan.max_staleness,
            temperature=self._plan.temperature,
        )
        folder = self._plan.checkpoints_dir.parent / FOLDER
        try:
            return f"Its batch: {write_diverged_batch(groups, selection, folder, step + 1)}"
        except OSError as error:
            return f"Its batch could not be written to {folder}: {error.strerror}"

    async def _call(self, method: str, *arguments: Any, ranks: int | None = None) -> Any:
        """Rank 0's answer, once all ranks (or the first so many) have given theirs.

        Raises _Lost where one gives none, else what a rank raised; where others wait for that one, nothing is left running.
        """
        asked = [
            asyncio.ensure_future(self._ask(number, getattr(actor, method).remote(*arguments), method))
            for number, actor in enumerate(self._actors[:ranks])
        ]
        try:
            deadline = DEADLINES[method]
            seconds = getattr(self._settings, deadline)
            done, waiting = await asyncio.wait(asked, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            early = [error for each in done if (error := each.exception())]
            if waiting and early and not any(isinstance(error, _Lost) for error in early):
                _, waiting = await asyncio.wait(waiting, timeout=GRACE_SECONDS)
            failures = [error for each in asked if each.done() and (error := each.exception())]
            # A rank whose peer died has lost its connection, and says no more than that.
            failures.sort(key=lambda error: not isinstance(error, _Lost))
            if waiting and not failures:
                raise _Lost(
                    f"learner.{method} did not answer within {seconds:g} s (if it was only slow, raise learner.{deadline})"
                )
            if waiting:
                self._kill()
            if failures:
                raise failures[0]
            return asked[0].result()
        finally:
            for each in asked:
                each.cancel()

    def _ask(self, number: int, reference: Awaitable[Any], method: str) -> Coroutine[Any, Any, Any]:
        """Return what one rank answers; ``_call`` enforces the deadline over all ranks."""
        which = f" on rank {number} of {self._settings.num_ranks}" if self._settings.num_ranks > 1 else ""
        return answer(reference, f"learner.{method}{which}", died=_Lost, failed=LearnerError)

    def _kill(self) -> None:
        actors, self._actors = self._actors, []
        for actor in actors:
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
