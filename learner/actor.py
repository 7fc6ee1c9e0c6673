"""Ray actor of one rank of the learner; ``learner.client`` is its client."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray

from cluster.actors.gpus import exclusive_start, hide_gpus
from cluster.errors import LearnerError
from cluster.types import Group, PolicyVersion, ProbePrompt, StepReport
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings
from learner.training.checkpoints import read_files, step_of, write_files
from learner.training.quiet import silence_libraries

Files = Mapping[str, bytes]  # name -> content
Checkpoint = tuple[int, Files]  # step and files


class LearnerActor:
    """Runs a LearnerWorker in the process of one rank, which does the heavy imports. Only rank 0 returns results, others None.

    Its machine does not need the run directory: checkpoints are transferred as the content of their files, and are on its disk
    only while they are read or written.
    """

    def __init__(self, settings: LearnerSettings, plan: LearnerPlan, rank: int) -> None:
        silence_libraries()
        if settings.gpus == 0:
            hide_gpus()
        self._settings = settings
        self._scratch = Path(tempfile.gettempdir()) / f"caravan-learner-{os.getpid()}-{uuid4().hex}"
        self._plan = replace(plan, checkpoints_dir=self._scratch)
        self._run_checkpoints = plan.checkpoints_dir  # in the run directory, on the driver's machine
        self._rank = rank
        self._host: str = ray.util.get_node_ip_address()
        self._rendezvous: Any = None  # the store, which rank 0 keeps open
        self._worker: Any = None

    def open_rendezvous(self) -> tuple[str, int]:
        """Open the rendezvous and return its host and port."""
        from learner.training.process_group import open_rendezvous

        self._rendezvous = open_rendezvous(self._host, self._settings.num_ranks)
        return self._host, self._rendezvous.port

    def start(self, rendezvous: tuple[str, int] | None, checkpoint: Checkpoint | None) -> PolicyVersion | None:
        """Join the process group, if there are several ranks, and start the worker, after other parts that start on its GPU.

        See LearnerWorker.start.
        """
        from learner.training.process_group import SINGLE_RANK, join_process_group
        from learner.worker import LearnerWorker

        process_group = SINGLE_RANK
        if rendezvous is not None:
            process_group = join_process_group(
                self._rank,
                self._settings.num_ranks,
                rendezvous if self._rendezvous is None else self._rendezvous,
                host=self._host,
                uses_gpu=self._settings.gpus > 0,
                deadline_seconds=self._settings.longest_deadline_seconds,
            )
        self._worker = LearnerWorker(self._settings, self._plan, process_group)
        with self._scratch_folder():
            if checkpoint is not None:
                step, files = checkpoint
                write_files(files, self._scratch / f"checkpoint-{step}")
            try:
                with exclusive_start() if self._settings.gpus > 0 else nullcontext():
                    policy: PolicyVersion | None = self._worker.start()
            except LearnerError as error:  # it names the copy of the checkpoint; the user knows the original
                raise LearnerError(str(error).replace(str(self._scratch), str(self._run_checkpoints))) from error
        return policy if self._rank == 0 else None

    def step(
        self, groups: Sequence[Group], active_overrides: Mapping[str, Any]
    ) -> tuple[PolicyVersion, StepReport] | None:
        """See LearnerWorker."""
        outcome: tuple[PolicyVersion, StepReport] = self._worker.step(groups, active_overrides)
        return outcome if self._rank == 0 else None

    def save_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint that LearnerWorker writes."""
        with self._scratch_folder():
            folder: str | None = self._worker.save_checkpoint()
            return None if folder is None else (step_of(Path(folder)), read_files(Path(folder)))

    def adapter_files(self) -> Files | None:
        """See LearnerWorker."""
        files: Files = self._worker.adapter_files()
        return files if self._rank == 0 else None

    def base_probes(self) -> tuple[ProbePrompt, ...] | None:
        """See LearnerWorker; all ranks must call it, because the layers may be sharded."""
        probes: tuple[ProbePrompt, ...] = self._worker.base_probes()
        return probes if self._rank == 0 else None

    def describe(self) -> str:
        """See LearnerWorker."""
        line: str = self._worker.describe()
        return line

    @contextmanager
    def _scratch_folder(self) -> Iterator[None]:
        self._scratch.mkdir(mode=0o700)
        try:
            yield
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
