"""``caravan sft``: supervised fine-tuning on the reference solutions of the training problems, before GRPO."""

import hashlib
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.actors.gpus import hide_gpus
from cluster.config.config import Config
from cluster.config.model_path import model_path
from cluster.console import Counter, View, count, output
from cluster.errors import CaravanError, ConfigError, DatasetError, LearnerError
from cluster.models.sft_folder import SftFolder
from cluster.models.sft_pairs import pairs_of
from cluster.placement.plan.model_shape import adapter_size
from cluster.placement.ray_cluster import place, ray_cluster
from cluster.placement.submit.persistent import is_job, require_persistent
from cluster.problems.solvable import AuditResults, needs_audit
from cluster.run.interruption import INTERRUPTED, interruption_of_task, interruption_of_thread
from cluster.run.loading import Dataset, audit_and_split, load_and_render
from cluster.run.preflight import refuse_adapter
from cluster.run.session import run_to_end
from cluster.types import Problem
from learner.sft.examples import Pair, SftSchedule
from learner.training.checkpoints import step_of
from learner.training.error_text import describe_error
from learner.training.quiet import silence_libraries
from learner.training.threads import num_threads

if TYPE_CHECKING:
    from learner.training.model import Device

ADAPTER_FOLDER = "adapter"  # in OUT, if an adapter was trained
OPTIMIZER_BYTES = 8  # per trained weight: both moments of AdamW in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class SftJob:
    """The settings of one ``caravan sft``."""

    config: Config
    schedule: SftSchedule
    full: bool  # train all weights in place of an adapter
    save_every_steps: int
    keep: int  # number of newest checkpoints that are kept

    def settings(self) -> dict[str, Any]:
        """The settings that must be the same when an interrupted training continues."""
        learner = self.config.learner
        return {
            "model.path": self.config.model.path,
            "full": self.full,
            **asdict(self.schedule),
            "learner.lora": None if self.full else learner.lora.model_dump(mode="json"),
            "learner.dtype": learner.dtype,
            "learner.quantization": learner.quantization,
        }


def sft(job: SftJob, out: Path) -> int:
    """Train on the solutions of the training problems, and write a whole model to ``out``; returns the exit code.

    The problems are the training problems of ``caravan train`` with the same configuration; held-out problems are not used.
    Without ``full`` a LoRA adapter (``learner.lora``) is trained and merged; ``out/adapter`` keeps it. After an interruption
    the same command resumes from the newest checkpoint. Raises ConfigError for ``out``, DatasetError if no problem has a
    solution, and the learner's errors.
    """
    refuse_adapter(job.config, "sft")
    if is_job():
        require_persistent(out, name="--out ")
    if job.full and (quantization := job.config.learner.quantization):
        raise ConfigError(
            f"--full trains all weights, and learner.quantization={quantization} freezes them: remove one"
        )
    silence_libraries()
    # Set before torch is imported, so that idle threads sleep. Two spinning threads took 13 times as long as one thread while
    # other programs used the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    folder = SftFolder(out)
    folder.check(job.settings())
    loaded: list[Dataset] = []

    async def load(view: View) -> int:
        interruption_of_task(view)
        loaded.append(await _load(job, view))
        return 0

    code = run_to_end(load)
    return code or _train(job, View(), loaded[0], folder)  # blocks: no event loop runs during the training


async def _load(job: SftJob, view: View) -> Dataset:
    config = job.config
    rendered = load_and_render(config, view)
    if not job.full:
        view.log(str(adapter_size(config)))
    with ExitStack() as stack:
        if needs_audit(config, rendered.problems, AuditResults(None)):
            cluster = stack.enter_context(ray_cluster(view.log))
            config = place(config.without_learner(), cluster.resources, num_machines=cluster.num_machines)
        return await audit_and_split(config, rendered, view)


def with_solution(problems: tuple[Problem, ...]) -> list[Problem]:
    """The problems that have a reference solution; raises DatasetError if none has."""
    found = [problem for problem in problems if problem.solution]
    if not found:
        raise DatasetError(
            f"none of {len(problems)} problems has a reference solution (column `solution`) to learn from"
        )
    return found


def _train(job: SftJob, view: View, dataset: Dataset, folder: SftFolder) -> int:
    """Train, and write the model; returns the exit code."""
    if job.config.learner.gpus == 0:
        hide_gpus()
    import torch

    from learner.sft.train import check_batch
    from learner.training.model import Device, check_saveable, choose_device, load_model
    from learner.training.targets import num_weights

    config = job.config
    problems = with_solution(dataset.training)
    check_batch(job.schedule)
    device = choose_device(config.learner)
    check_saveable(model_path(config))
    # All weights are trained in float32: in bfloat16 small updates would be rounded away.
    weights = Device(use_cpu=device.use_cpu, dtype=torch.float32) if job.full else device
    model, tokenizer = load_model(model_path(config), weights, quantization=config.learner.quantization)
    num_parameters = num_weights(model) if job.full else adapter_size(config).num_parameters
    pairs = pairs_of(problems, dataset.prompts, tokenizer)
    num_unsolved = len(dataset.training) - len(problems)
    view.log(f"{len(pairs)} pairs of prompt and solution; {num_unsolved} problems have no solution")
    if job.full:
        view.log(f"trained weights: all {num_parameters:,}")
    num_steps = job.schedule.total_steps(len(pairs))
    template_hash = next(iter(dataset.prompts.values())).template_hash
    with folder.opened(job.settings() | {"prompt.template_hash": template_hash, "pairs": _fingerprint(pairs)}):
        checkpoint = folder.newest()
        if checkpoint is None or step_of(checkpoint) < num_steps:
            _require_space(job, folder, num_parameters=num_parameters)
            checkpoint = _fit(job, view, folder, model, tokenizer, pairs, device)
            if checkpoint is None:
                raise LearnerError(
                    "the trainer wrote no checkpoint of its last step: TRL has changed, see learner/sft/train.py"
                )
            if step_of(checkpoint) < num_steps:
                view.log(
                    f"stopped after step {step_of(checkpoint)} of {num_steps}, saved in {checkpoint}; the same command continues"
                )
                return INTERRUPTED
        del model  # frees the memory: the model is loaded again to be written
        _write(job, folder, checkpoint)
    view.log(f"model: {folder.path}; train it further with {shlex.quote(f'model.path={folder.path}')}")
    return 0


def _fit(
    job: SftJob, view: View, folder: SftFolder, model: Any, tokenizer: Any, pairs: Sequence[Pair], device: "Device"
) -> Path | None:
    """Train until the last step or an interruption; returns the last checkpoint."""
    import torch

    from learner.sft.train import CheckpointSettings, fine_tune

    config = job.config
    num_steps = job.schedule.total_steps(len(pairs))
    newest = folder.newest()
    num_done = step_of(newest) if newest else 0
    threads = num_threads(config.learner, model.num_parameters())
    torch.set_num_threads(threads)
    if device.use_cpu:
        view.log(f"training on the CPU with {count(threads, 'thread')}")
    if newest:
        view.log(f"continuing from {newest}, step {num_done} of {num_steps}")
    with (
        interruption_of_thread(view) as interruption,
        interruption.graceful(),
        view.counting("SFT steps", num_steps - num_done) as counter,
    ):
        steps = Steps(folder, counter, num_steps)
        ended = fine_tune(
            model,
            tokenizer,
            pairs,
            job.schedule,
            lora=None if job.full else config.learner.lora,
            device=device,
            scratch=folder.work / "trl",
            gradient_checkpointing=config.learner.gradient_checkpointing,
            on_step=steps.done,
            saving=CheckpointSettings(
                folder=folder.work, every_steps=job.save_every_steps, keep=job.keep, fallback_folder=folder.spare
            ),
            resumed=newest,
            is_stopped=interruption.requested.is_set,
        )
    if ended.step == num_steps:
        view.log(steps.summary())
    return ended.checkpoint


class Steps:
    """Progress of the training: a bar on a terminal, else a line per step, and a line per step in the log."""

    def __init__(self, folder: SftFolder, counter: Counter, num_steps: int) -> None:
        self._folder = folder
        self._counter = counter
        self._num_steps = num_steps
        self._console = output()
        self._losses: list[float] = []
        self._last = time.monotonic()

    def done(self, step: int, loss: float) -> None:
        """Show and log a finished step."""
        now = time.monotonic()
        line = f"step {step}/{self._num_steps}  loss {loss:.4f}  {now - self._last:.2f} s"
        self._last = now
        self._losses.append(loss)
        self._counter.advance()
        self._folder.write_line(line)
        if not sys.stdout.isatty():
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def summary(self) -> str:
        """The mean loss of the first and of the last steps since this start."""
        tenth = max(1, len(self._losses) // 10)
        first, last = sum(self._losses[:tenth]) / tenth, sum(self._losses[-tenth:]) / tenth
        return f"loss, in nats per token: {first:.3f} in the first {tenth} steps, {last:.3f} in the last"


def _fingerprint(pairs: Sequence[Pair]) -> str:
    plain = json.dumps([[list(ids) for ids in pair] for pair in pairs])
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def _require_space(job: SftJob, folder: SftFolder, *, num_parameters: int) -> None:
    """Raise ConfigError, before the training, if the disk has no space for the last checkpoint and the model."""
    trained = num_parameters if job.full else adapter_size(job.config).num_trained
    bytes_per_number = 4 if _dtype_of(model_path(job.config)) == "float32" else 2
    needed = trained * (4 + OPTIMIZER_BYTES) + num_parameters * bytes_per_number
    free = shutil.disk_usage(folder.work).free
    if free < needed:
        raise ConfigError(
            f"{folder.path} is on a disk with {free / 2**20:.0f} MiB free, and a checkpoint and the model take "
            f"{needed / 2**20:.0f}: free disk space, or choose another folder"
        )


def _write(job: SftJob, folder: SftFolder, checkpoint: Path) -> None:
    """Write the model of the last checkpoint to the folder, completely or not at all."""
    try:
        shutil.rmtree(folder.draft, ignore_errors=True)
        folder.draft.mkdir()
        _write_draft(job, checkpoint, folder.draft)
        folder.move_into_place()
    except (CaravanError, OSError) as error:
        shutil.rmtree(folder.draft, ignore_errors=True)
        cause = str(error) if isinstance(error, CaravanError) else describe_error(error)
        raise LearnerError(
            f"the model cannot be written to {folder.path}: {cause}. All steps are done, and the trained weights are in "
            f"{checkpoint}: remove the cause, and the same command writes the model without training again"
        ) from error


def _write_draft(job: SftJob, checkpoint: Path, draft: Path) -> None:
    import torch

    from learner.adapter_folder import CONFIG_FILE, WEIGHTS_FILE
    from learner.sft.train import load_weights
    from learner.training.merge import write_merged, write_model
    from learner.training.model import Device, load_model

    path = model_path(job.config)
    dtype = _dtype_of(path)
    if job.full:
        model, tokenizer = load_model(path, Device(use_cpu=True, dtype=torch.float32))
        load_weights(model, checkpoint)
        write_model(model, tokenizer, draft, dtype=dtype)
        return
    adapter = draft / ADAPTER_FOLDER
    adapter.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        shutil.copyfile(checkpoint / name, adapter / name)
    write_merged(path, adapter, draft, dtype=dtype)


def _dtype_of(model: str) -> str:
    """The precision in which the model's weights are stored; the new model is stored in the same."""
    from transformers import AutoConfig

    from learner.training.model import folder_or_id

    stored: Any = AutoConfig.from_pretrained(folder_or_id(model)).dtype
    return "bfloat16" if stored is None else str(stored).removeprefix("torch.")
