"""One rank of the learner, in a Ray actor of its own; ``learner.client`` is its client."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray

from cluster.errors import LearnerError
from cluster.types import Group, PolicyVersion, ProbePrompt, StepReport
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings
from learner.training.checkpoints import read_files, step_of, write_files
from learner.training.quiet import silence_libraries

Files = Mapping[str, bytes]  # of a folder, by name
Checkpoint = tuple[int, Files]  # the step after which it was written


class LearnerActor:
    """Runs inside the process of one rank, where the heavy imports happen. Rank 0 answers for all; the others answer None.

    Its machine need not see the run's folder: checkpoints come and go as the content of their files, and are on its disk only
    while they are read or written.
    """

    def __init__(self, settings: LearnerSettings, plan: LearnerPlan, number: int) -> None:
        silence_libraries()
        self._settings = settings
        self._scratch = Path(tempfile.gettempdir()) / f"caravan-learner-{os.getpid()}-{uuid4().hex}"
        self._plan = replace(plan, checkpoints_dir=self._scratch)
        self._kept_in = plan.checkpoints_dir  # of the run, at the driver
        self._number = number
        self._host: str = ray.util.get_node_ip_address()
        self._meeting: Any = None  # that rank 0 keeps open
        self._worker: Any = None

    def open_rendezvous(self) -> tuple[str, int]:
        """Host and port where the other ranks find this one."""
        from learner.training.process_group import open_rendezvous

        self._meeting = open_rendezvous(self._host, self._settings.num_ranks)
        return self._host, self._meeting.port

    def start(self, meeting: tuple[str, int] | None, checkpoint: Checkpoint | None) -> PolicyVersion | None:
        """See LearnerWorker; several ranks first meet at rank 0's host and port."""
        from learner.training.process_group import SINGLE_RANK, join
        from learner.worker import LearnerWorker

        ranks = SINGLE_RANK
        if meeting is not None:
            ranks = join(
                self._number,
                self._settings.num_ranks,
                meeting if self._meeting is None else self._meeting,
                host=self._host,
                uses_gpu=self._settings.gpus > 0,
                deadline_seconds=self._settings.longest_deadline_seconds,
            )
        self._worker = LearnerWorker(self._settings, self._plan, ranks)
        with self._on_disk():
            if checkpoint is not None:
                step, files = checkpoint
                write_files(files, self._scratch / f"checkpoint-{step}")
            try:
                policy: PolicyVersion | None = self._worker.start()
            except LearnerError as error:  # of a checkpoint, whose copy here is of no use to who reads it
                raise LearnerError(str(error).replace(str(self._scratch), str(self._kept_in))) from error
        return policy if self._number == 0 else None

    def step(
        self, groups: Sequence[Group], active_overrides: Mapping[str, Any]
    ) -> tuple[PolicyVersion, StepReport] | None:
        """See LearnerWorker."""
        outcome: tuple[PolicyVersion, StepReport] = self._worker.step(groups, active_overrides)
        return outcome if self._number == 0 else None

    def save_checkpoint(self) -> Checkpoint | None:
        """The checkpoint that LearnerWorker writes."""
        with self._on_disk():
            folder: str | None = self._worker.save_checkpoint()
            return None if folder is None else (step_of(Path(folder)), read_files(Path(folder)))

    def adapter_files(self) -> Files | None:
        """See LearnerWorker."""
        files: Files = self._worker.adapter_files()
        return files if self._number == 0 else None

    def probe(self) -> ProbePrompt | None:
        """See LearnerWorker; where ranks share the layers of the model, all have to compute it."""
        probe: ProbePrompt | None = self._worker.probe()
        return probe if self._number == 0 else None

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        self._scratch.mkdir(mode=0o700)
        try:
            yield
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
