"""``caravan sft``: teach a base model the reference solutions of the training problems, before any reinforcement."""

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.config.config import Config
from cluster.config.model_path import model_path
from cluster.console import Counter, View, count, output
from cluster.errors import CaravanError, ConfigError, DatasetError, LearnerError
from cluster.models.sft_folder import SftFolder
from cluster.models.sft_pairs import pairs_of
from cluster.placement.plan.model_shape import adapter_size
from cluster.placement.ray_cluster import place, ray_cluster
from cluster.problems.solvable import Verdicts, needs_audit
from cluster.run.session import INTERRUPTED, Interruption, Material, load_material, load_usable, run_to_end
from cluster.types import Problem
from learner.sft.examples import Pair, Schedule
from learner.training.checkpoints import step_of
from learner.training.error_text import describe_error
from learner.training.quiet import silence_libraries
from learner.training.threads import num_threads

ADAPTER_FOLDER = "adapter"  # in OUT, where an adapter was trained
OPTIMIZER_BYTES = 8  # of each weight that is trained: both moments of AdamW in float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What is trained, and how."""

    config: Config
    schedule: Schedule
    full: bool  # all weights in place of an adapter
    save_every_steps: int
    keep: int  # the newest checkpoints

    def settings(self) -> dict[str, Any]:
        """Those that a training continues with; others would make it another one."""
        learner = self.config.learner
        return {
            "model.path": self.config.model.path,
            "full": self.full,
            **asdict(self.schedule),
            "learner.lora": None if self.full else learner.lora.model_dump(mode="json"),
            "learner.dtype": learner.dtype,
        }


def sft(lesson: Lesson, out: Path) -> int:
    """Train on the solutions of the training problems, and write a whole model to ``out``.

    The problems are those that ``caravan train`` would train on with the same configuration, so that the held-out ones stay
    unseen. Without ``full`` a LoRA adapter is trained (``learner.lora``) and added in; ``out`` keeps it as well. Interrupted, the
    same command continues from the last checkpoint. Returns the exit code. Raises ConfigError for ``out``, DatasetError where no
    problem has a solution, and what the learner raises.
    """
    silence_libraries()
    # Before torch is imported: threads that wait for each other then sleep. Spinning, two of them took 13 times as long as one
    # where other programs were using the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    folder = SftFolder(out)
    folder.check(lesson.settings())
    found: list[Material] = []

    async def load(view: View) -> int:
        Interruption(view)
        found.append(await _material(lesson, view))
        return 0

    # Training itself blocks, and is interrupted as any program is: nothing else runs beside it.
    code = run_to_end(load)
    return code or _train(lesson, View(), found[0], folder)


async def _material(lesson: Lesson, view: View) -> Material:
    config = lesson.config
    usable = load_usable(config, view)
    if not lesson.full:
        view.log(str(adapter_size(config)))
    with ExitStack() as stack:
        if needs_audit(config, usable.problems, Verdicts(None)):
            cluster = stack.enter_context(ray_cluster(view.log))
            config = place(config.without_learner(), cluster.resources, num_machines=cluster.num_machines)
        return await load_material(config, usable, view)


def solved(problems: tuple[Problem, ...]) -> list[Problem]:
    """Those that have a reference solution; raises DatasetError where none has."""
    found = [problem for problem in problems if problem.solution]
    if not found:
        raise DatasetError(
            f"none of {len(problems)} problems has a reference solution (column `solution`) to learn from"
        )
    return found


def _train(lesson: Lesson, view: View, material: Material, folder: SftFolder) -> int:
    """Train, and write the model; returns the exit code."""
    import torch

    from learner.sft.train import CheckpointSettings, check_batch, fine_tune
    from learner.training.model import Device, check_saveable, choose_device, load_model

    config, full = lesson.config, lesson.full
    wanted = solved(material.training)
    check_batch(lesson.schedule)
    chosen = choose_device(config.learner)
    check_saveable(model_path(config))
    # All weights are trained in float32: in bfloat16 small updates would round to nothing.
    weights = Device(use_cpu=chosen.use_cpu, dtype=torch.float32) if full else chosen
    model, tokenizer = load_model(model_path(config), weights)
    pairs = pairs_of(wanted, material.prompts, tokenizer)
    without = len(material.training) - len(wanted)
    view.log(f"{len(pairs)} pairs of prompt and solution; {without} problems have no solution")
    if full:
        view.log(f"trained weights: all {model.num_parameters():,}")
    num_steps = lesson.schedule.total_steps(len(pairs))
    with folder.opened(lesson.settings() | {"pairs": _fingerprint(pairs)}):
        newest = folder.newest()
        done = step_of(newest) if newest else 0
        if newest is None or done < num_steps:
            _require_space(lesson, folder, num_parameters=model.num_parameters())
            threads = num_threads(config.learner, model.num_parameters())
            torch.set_num_threads(threads)
            if chosen.use_cpu:
                view.log(f"training on the CPU with {count(threads, 'thread')}")
            if newest:
                view.log(f"continuing from {newest}, step {done} of {num_steps}")
            with _stopping_politely(view) as is_stopped, view.counting("supervised steps", num_steps - done) as counter:
                steps = Steps(folder, counter, num_steps)
                ended = fine_tune(
                    model,
                    tokenizer,
                    pairs,
                    lesson.schedule,
                    lora=None if full else config.learner.lora,
                    place=chosen,
                    scratch=folder.work / "trl",
                    gradient_checkpointing=config.learner.gradient_checkpointing,
                    on_step=steps.done,
                    saving=CheckpointSettings(
                        folder=folder.work, every_steps=lesson.save_every_steps, keep=lesson.keep, spare=folder.spare
                    ),
                    resumed=newest,
                    is_stopped=is_stopped,
                )
            if ended.step < num_steps:
                view.log(
                    f"stopped after step {ended.step} of {num_steps}, saved in {ended.checkpoint}; the same command continues"
                )
                return INTERRUPTED
            view.log(steps.summary())
            newest = ended.checkpoint
            del ended, model  # the model is loaded again, to be written
        if newest is None:
            raise LearnerError(
                "the trainer wrote no checkpoint of its last step: a seam of learner/sft/train.py no longer holds"
            )
        _write(lesson, folder, newest)
    view.log(f"model: {folder.path}; train it further with model.path={folder.path}")
    return 0


class Steps:
    """Shows and logs each step: a bar on a terminal, a line elsewhere, and a line in the log."""

    def __init__(self, folder: SftFolder, counter: Counter, num_steps: int) -> None:
        self._folder = folder
        self._counter = counter
        self._num_steps = num_steps
        self._console = output()
        self._losses: list[float] = []
        self._last = time.monotonic()

    def done(self, step: int, loss: float) -> None:
        """Called after each step."""
        now = time.monotonic()
        line = f"step {step}/{self._num_steps}  loss {loss:.4f}  {now - self._last:.2f} s"
        self._last = now
        self._losses.append(loss)
        self._counter.advance()
        self._folder.write_line(line)
        if not sys.stdout.isatty():
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def summary(self) -> str:
        """The loss at both ends of what was trained."""
        tenth = max(1, len(self._losses) // 10)
        first, last = sum(self._losses[:tenth]) / tenth, sum(self._losses[-tenth:]) / tenth
        return f"loss, in nats per token: {first:.3f} in the first {tenth} steps, {last:.3f} in the last"


@contextmanager
def _stopping_politely(view: View) -> Iterator[Callable[[], bool]]:
    """Have the first Ctrl-C or SIGTERM end the training after the step under way, and the next one end it at once."""
    asked = threading.Event()

    def ask(*_: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        view.log("stopping: the step under way is finished, then a checkpoint is saved; Ctrl-C again stops at once")

    before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _fingerprint(pairs: Sequence[Pair]) -> str:
    plain = json.dumps([[list(ids) for ids in pair] for pair in pairs])
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def _require_space(lesson: Lesson, folder: SftFolder, *, num_parameters: int) -> None:
    """Raise ConfigError where the disk has no room for the last checkpoint and the model, rather than after the training."""
    trained = num_parameters if lesson.full else adapter_size(lesson.config).num_trained
    bytes_each = 4 if _dtype_of(model_path(lesson.config)) == "float32" else 2
    needed = trained * (4 + OPTIMIZER_BYTES) + num_parameters * bytes_each
    free = shutil.disk_usage(folder.work).free
    if free < needed:
        raise ConfigError(
            f"{folder.path} is on a disk with {free / 2**20:.0f} MiB free, and a checkpoint and the model take "
            f"{needed / 2**20:.0f}: make room, or choose another folder"
        )


def _write(lesson: Lesson, folder: SftFolder, checkpoint: Path) -> None:
    """Write the model of a training's last checkpoint to its folder, whole or not at all."""
    try:
        shutil.rmtree(folder.draft, ignore_errors=True)
        folder.draft.mkdir()
        _write_draft(lesson, checkpoint, folder.draft)
        folder.publish()
    except (CaravanError, OSError) as error:
        shutil.rmtree(folder.draft, ignore_errors=True)
        cause = str(error) if isinstance(error, CaravanError) else describe_error(error)
        raise LearnerError(
            f"the model cannot be written to {folder.path}: {cause}. All steps are done, and what was trained is kept in "
            f"{checkpoint}: mend the cause, and the same command writes the model without training again"
        ) from error


def _write_draft(lesson: Lesson, checkpoint: Path, draft: Path) -> None:
    import torch

    from learner.sft.train import load_weights
    from learner.training.adapter import CONFIG_FILE, WEIGHTS_FILE
    from learner.training.merge import write_merged, write_model
    from learner.training.model import Device, load_model

    path = model_path(lesson.config)
    dtype = _dtype_of(path)
    if lesson.full:
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
    """In which the model's own weights are stored: what is made of it is stored alike."""
    from transformers import AutoConfig

    from learner.training.model import folder_or_id

    stored: Any = AutoConfig.from_pretrained(folder_or_id(model)).dtype
    return "bfloat16" if stored is None else str(stored).removeprefix("torch.")
