"""Client of the learner's Ray actors: it calls all ranks, keeps their checkpoints and replaces them when one is lost."""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.actors.calls import result_of
from cluster.actors.resources import wait_for_resources
from cluster.errors import LearnerError
from cluster.types import Group, PolicyVersion, ProbePrompt, StepReport
from learner.actor import LearnerActor
from learner.batch.selection import select
from learner.overrides import apply_overrides
from learner.placement import place_ranks
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
from learner.training.error_text import with_advice
from learner.training.quiet import ENVIRONMENT

logger = logging.getLogger(__name__)

PLACEMENT_SECONDS = 60.0
"""Deadline at the start of a run for resources that ending actors still hold."""

GRACE_SECONDS = 30.0
"""Wait for the other ranks after one has failed: they may return a better error, or wait for the failed rank forever."""

ON_GPU = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""Environment of actors on GPUs, read when torch initializes CUDA. Micro-batches differ in size: without it, torch keeps
free blocks that fit no later micro-batch. PYTORCH_CUDA_ALLOC_CONF, its older name, takes precedence if a machine sets it."""

DEADLINES = {
    "open_rendezvous": "start_deadline_seconds",
    "start": "start_deadline_seconds",
    "step": "step_deadline_seconds",
    "save_checkpoint": "save_deadline_seconds",
    "adapter_files": "save_deadline_seconds",
    "base_probes": "start_deadline_seconds",
    "describe": "start_deadline_seconds",
}
"""Setting with the deadline of each actor method."""


class _ProcessLost(Exception):
    """A process of the learner died or missed a deadline; its state is in the checkpoints."""


class RayLearner:
    """A cluster.protocols.Learner in Ray actors, one for each of ``learner.num_ranks``.

    When a process dies or misses a deadline, all ranks are replaced. The new ones load the newest complete checkpoint, repeat the
    steps since then on the same batches (which stay in the object store until the next checkpoint), and answer the interrupted
    call. So each batch counts exactly once in the current policy, and a policy number always means the same adapter. This
    happens once per call; if a process is lost again, the call raises LearnerError.

    Every call raises the errors of the remote learner, and ResourcesError if the cluster cannot place the processes. ``close()``
    ends them in any state.
    """

    def __init__(self, settings: LearnerSettings, plan: LearnerPlan) -> None:
        self.num_restarts = 0  # replacements of lost processes
        self._settings = settings
        self._plan = _with_absolute_paths(plan)
        self._actors: list[Any] = []  # by rank
        self._group: PlacementGroup | None = None  # of several ranks, once they are placed
        self._is_closed = False
        self._writing: asyncio.Task[Path] | None = None  # the checkpoint that is being written
        self._saved_step = 0  # of the newest complete checkpoint
        # The steps since then, oldest first: batch and active overrides.
        self._batches: list[tuple[ray.ObjectRef, dict[str, Any]]] = []

    async def place(self) -> None:
        """Reserve the resources of all ranks, on one machine if they fit; ``start`` calls it if it was not called before.

        Raises ResourcesError if the cluster cannot place the actors.
        """
        settings = self._settings
        # After the loss of a machine, another machine may join.
        seconds = PLACEMENT_SECONDS if self.num_restarts == 0 else settings.start_deadline_seconds
        await wait_for_resources(
            "learner",
            settings.bundle,
            settings.num_ranks,
            free_seconds=seconds,
            join_seconds=seconds,
            advice="Wait for what else runs there, or lower learner.cpus, learner.gpus or learner.num_ranks; the same command "
            f"resumes the run from {self._resume_point()}",
        )
        if settings.num_ranks > 1 and settings.bundle:
            self._group = await place_ranks(settings.bundle, settings.num_ranks, deadline_seconds=seconds)

    async def start(self) -> PolicyVersion | None:
        """Place the actors, load the model and the newest complete checkpoint; return its policy.

        Without a checkpoint: the policy of the initial adapter, or None without one.

        Raises ModelError if the model cannot be loaded, ResourcesError if the cluster cannot place the actors.
        """
        newest = newest_checkpoint(self._plan.checkpoints_dir)
        self._saved_step = step_of(newest) if newest else 0
        try:
            policy = await self._start_actors()
        except _ProcessLost as lost:
            policy = await self._replace(lost)
        self._saved_step = policy.number if policy else 0
        return policy

    async def step(
        self, groups: Sequence[Group], active_overrides: Mapping[str, Any] = MappingProxyType({})
    ) -> tuple[PolicyVersion, StepReport]:
        """Train on whole groups with these overrides; raises LearnerError if it diverges or nothing can be trained on."""
        batch = await asyncio.to_thread(ray.put, groups)
        try:
            policy, report = await self._call_or_replace("step", batch, dict(active_overrides))
        except Diverged as error:
            raise LearnerError(f"{error}. {self._save_diverged_batch(groups, active_overrides)}") from error
        self._batches.append((batch, dict(active_overrides)))
        return policy, replace(report, metrics={**report.metrics, "num_learner_restarts": float(self.num_restarts)})

    async def save_checkpoint(self) -> str:
        """Write a complete checkpoint for the current step and return its folder."""
        step, files = await self._call_or_replace("save_checkpoint")
        root, keep = self._plan.checkpoints_dir, self._settings.save_total_limit
        if self._writing:  # of a cancelled save, whose thread still runs: two must not write at a time
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
        """Write the current adapter in PEFT format, for peft, transformers and vLLM."""
        await asyncio.to_thread(write_adapter, await self._call_or_replace("adapter_files"), folder)

    async def base_probes(self) -> tuple[ProbePrompt, ...]:
        """Score the plan's probe prompts under the base model."""
        probes: tuple[ProbePrompt, ...] = await self._call_or_replace("base_probes")
        return probes

    async def describe(self) -> str:
        """Describe how the forward pass is computed, in one line for the log."""
        line: str = await self._call_or_replace("describe")
        return line

    async def close(self) -> None:
        """Kill the actors; may be called twice. A pending call raises LearnerError."""
        self._is_closed = True
        self._kill()

    async def _call_or_replace(self, method: str, *arguments: Any) -> Any:
        """Call the learner, and replace it once if it is lost."""
        if not self._actors:
            raise LearnerError(f"learner.{method}: the learner is not running (not started, lost, or closed)")
        try:
            return await self._call(method, *arguments)
        except _ProcessLost as lost:
            if self._is_closed:
                raise LearnerError(f"the learner was closed during {method}") from lost
            return await self._replace(lost, method, *arguments)

    async def _replace(self, lost: _ProcessLost, method: str | None = None, *arguments: Any) -> Any:
        """Start new actors, repeat the steps since the checkpoint, and return the answer to the interrupted call.

        Without a ``method`` that call is the start. Raises LearnerError, with all actors killed, if a process is lost again.
        """
        self.num_restarts += 1
        logger.warning(
            "%s; the learner is restarted from step %d and repeats %d steps", lost, self._saved_step, len(self._batches)
        )
        try:
            policy = await self._start_actors()
            if method is None:
                return policy
            await self._repeat_steps(policy)
            return await self._call(method, *arguments)
        except _ProcessLost as lost_again:
            self._kill()
            raise LearnerError(
                f"{lost}; it was restarted, and {lost_again}. If memory ran out, lower learner.micro_batch_tokens or set "
                f"learner.gradient_checkpointing. The same command resumes the run from {self._resume_point()}"
            ) from lost_again

    async def _repeat_steps(self, policy: PolicyVersion | None) -> None:
        """Repeat the steps since the checkpoint that the new actors have loaded."""
        step = policy.number if policy else 0
        # A save that was cancelled may have left a checkpoint newer than self._saved_step.
        num_saved = step - self._saved_step
        if not 0 <= num_saved <= len(self._batches):
            self._kill()
            raise LearnerError(
                f"the restarted learner found its newest checkpoint at step {step} instead of step {self._saved_step} to "
                f"{self._saved_step + len(self._batches)}: another process changed {self._plan.checkpoints_dir}"
            )
        try:
            for batch, active_overrides in self._batches[num_saved:]:
                await self._call("step", batch, active_overrides)
        except BaseException:
            self._kill()  # a partly repeated state must not be saved
            raise

    async def _start_actors(self) -> PolicyVersion | None:
        if self._actors:
            self._kill()
        if self._group is None:
            await self.place()
        if self._is_closed:
            self._kill()
            raise LearnerError("the learner was closed while it was started")
        settings = self._settings
        self._actors = [
            ray.remote(LearnerActor).options(**self._actor_options(rank)).remote(settings, self._plan, rank)
            for rank in range(settings.num_ranks)
        ]
        rendezvous = await self._call("open_rendezvous", ranks=1) if settings.num_ranks > 1 else None
        policy: PolicyVersion | None = await self._call("start", rendezvous, await asyncio.to_thread(self._checkpoint))
        return policy

    def _actor_options(self, rank: int) -> dict[str, Any]:
        settings = self._settings
        environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(settings.num_threads)}
        if settings.gpus > 0:
            environment |= ON_GPU
        options = {
            "num_cpus": settings.cpus,
            "num_gpus": settings.gpus,
            "runtime_env": {"env_vars": environment},
        }
        if self._group is not None:
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(self._group, rank)
        return options

    def _checkpoint(self) -> ray.ObjectRef | None:
        """Put the newest complete checkpoint into the object store."""
        newest = newest_checkpoint(self._plan.checkpoints_dir)
        return ray.put((step_of(newest), read_files(newest))) if newest else None

    def _save_diverged_batch(self, groups: Sequence[Group], active_overrides: Mapping[str, Any]) -> str:
        """Write the batch of a diverged step next to the checkpoints, and return a sentence with its path."""
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
        """Call all ranks, or the first ``ranks``, and return rank 0's answer when all have answered.

        Raises _ProcessLost if a rank does not answer, else the error of a rank. All actors are killed if others wait for the
        failed rank.
        """
        calls = [
            asyncio.ensure_future(self._call_rank(rank, getattr(actor, method).remote(*arguments), method))
            for rank, actor in enumerate(self._actors[:ranks])
        ]
        try:
            deadline = DEADLINES[method]
            seconds = getattr(self._settings, deadline)
            done, waiting = await asyncio.wait(calls, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
            early = [error for call in done if (error := call.exception())]
            if waiting and early and not any(isinstance(error, _ProcessLost) for error in early):
                _, waiting = await asyncio.wait(waiting, timeout=GRACE_SECONDS)
            failures = [error for call in calls if call.done() and (error := call.exception())]
            # A rank whose peer died reports only a lost connection: the loss comes first.
            failures.sort(key=lambda error: not isinstance(error, _ProcessLost))
            if waiting and not failures:
                raise _ProcessLost(
                    f"learner.{method} did not answer within {seconds:g} s (if it was only slow, increase learner.{deadline})"
                )
            if waiting:
                self._kill()
            if failures:
                raise failures[0]
            return calls[0].result()
        finally:
            for call in calls:
                call.cancel()

    def _call_rank(self, rank: int, reference: Awaitable[Any], method: str) -> Coroutine[Any, Any, Any]:
        """Await the answer of one rank; ``_call`` enforces the deadline over all ranks."""
        which = f" on rank {rank} of {self._settings.num_ranks}" if self._settings.num_ranks > 1 else ""
        return result_of(reference, f"learner.{method}{which}", death_error=_ProcessLost, failure_error=_failure)

    def _kill(self) -> None:
        actors, self._actors = self._actors, []
        for actor in actors:
            ray.kill(actor, no_restart=True)
        group, self._group = self._group, None
        if group is not None:
            remove_placement_group(group)

    def _resume_point(self) -> str:
        return f"checkpoint step {self._saved_step}" if self._saved_step else "the start: it has no checkpoint yet"


def _failure(text: str) -> LearnerError:
    return LearnerError(with_advice(text))


def _with_absolute_paths(plan: LearnerPlan) -> LearnerPlan:
    """Make paths absolute: actors may have another working directory than the driver."""
    model = Path(plan.model)
    return replace(
        plan,
        model=str(model.absolute()) if model.is_dir() else plan.model,
        checkpoints_dir=plan.checkpoints_dir.absolute(),
    )
