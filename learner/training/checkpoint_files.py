"""The files of a checkpoint: trained weights, optimizer, schedule, step, and the random states of all ranks."""

import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, set_seed

from cluster.errors import LearnerError
from learner.adapter_folder import WEIGHTS_FILE
from learner.training.adapter import pack_adapter
from learner.training.checkpoints import read_files, write_files
from learner.training.full import FullModel, check_is_full, write_full
from learner.training.kl import AdaptiveKl
from learner.training.process_group import ProcessGroup

# A run that resumes without one of these would differ from the interrupted run.
CHECKPOINT_FILES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
RANDOM_STATE_FILE = "rng_state.pth"  # of rank 0, under TRL's name; rank 1 has rng_state_1.pth, and so on
ADAPTIVE_KL_FILE = "adaptive_kl.json"  # the adapted kl_coefficient for the next step


class CheckpointFiles(Trainer):  # type: ignore[misc]
    """Mixin of a trainer: reads and writes the files of its checkpoints."""

    _process_group: ProcessGroup
    _adaptive_kl: AdaptiveKl

    def check_checkpoint(self, folder: Path) -> None:
        """Raise LearnerError if a checkpoint lacks a file, which TRL would ignore."""
        is_full = isinstance(self.model, FullModel)
        if is_full:
            check_is_full(folder)
        needed = CHECKPOINT_FILES if is_full else (WEIGHTS_FILE, *CHECKPOINT_FILES)
        if missing := [name for name in needed if not (folder / name).is_file()]:
            raise LearnerError(f"it has no {', '.join(missing)}")

    @staticmethod
    def saved_kl(folder: Path) -> AdaptiveKl | None:
        """Return the adapted KL coefficient of a checkpoint, if it has one."""
        adapted = folder / ADAPTIVE_KL_FILE
        if not adapted.is_file():
            return None
        return AdaptiveKl(json.loads(adapted.read_text())["kl_coefficient"], has_adapted=True)

    def random_state(self) -> bytes:
        """Return this rank's random state for ``save_to``; only between two steps."""
        with tempfile.TemporaryDirectory() as folder:
            super()._save_rng_state(folder)
            return (Path(folder) / RANDOM_STATE_FILE).read_bytes()

    def save_to(self, folder: Path, other_random_states: Sequence[bytes]) -> None:
        """Write adapter, optimizer, schedule, step and all random states: this rank's, and those of ranks 1 and up."""
        self.args.output_dir = str(folder.parent)
        self._save_checkpoint(self.model, trial=None)
        (folder.parent / f"checkpoint-{self.state.global_step}").rename(folder)
        for rank, random_state in enumerate(other_random_states, start=1):
            (folder / _random_state_file(rank)).write_bytes(random_state)
        if self._adaptive_kl.has_adapted:
            state = {"kl_coefficient": self._adaptive_kl.coefficient}
            (folder / ADAPTIVE_KL_FILE).write_text(json.dumps(state))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        """Write the weights that training changes: the adapter alone, or a whole model with its tokenizer."""
        folder = Path(output_dir or self.args.output_dir)
        if isinstance(self.model, FullModel):
            write_full(self.model, self.processing_class, folder)
        else:
            write_files(pack_adapter(self.model, dtype=torch.float32), folder)

    def files(self) -> dict[str, bytes]:
        """Return the files that ``_save`` writes, name -> content; only between two steps."""
        with tempfile.TemporaryDirectory() as folder:
            self._save(folder)
            return read_files(Path(folder))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load an adapter; a whole model was loaded from the checkpoint in the first place (LearnerWorker.start)."""
        if not isinstance(self.model, FullModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Load this rank's random state; a rank that the checkpoint does not have is seeded by seed, step and rank."""
        if checkpoint is None or self._process_group.rank == 0:
            super()._load_rng_state(checkpoint)
            return
        own = Path(checkpoint) / _random_state_file(self._process_group.rank)
        if not own.is_file():
            seed = f"{self.args.seed} {self.state.global_step} {self._process_group.rank}"
            set_seed(random.Random(seed).getrandbits(32))
            return
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / RANDOM_STATE_FILE).write_bytes(own.read_bytes())
            super()._load_rng_state(folder)


def _random_state_file(rank: int) -> str:
    """File name of a rank's random state; TRL writes and reads that of rank 0."""
    return f"rng_state_{rank}.pth"
