"""Supervised fine-tuning on prompt-completion pairs with TRL's SFTTrainer.

The inputs are token ids. Only completion tokens enter the loss, unless the schedule has a weight for prompt tokens.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from safetensors import SafetensorError
from safetensors.torch import load_model as safetensors_load_model
from safetensors.torch import save_model
from transformers import PrinterCallback, TrainerCallback

from cluster.errors import LearnerError
from learner.lora_settings import LoraSettings
from learner.sft.examples import Pair, SftSchedule
from learner.training.adapter import pack_adapter
from learner.training.build import lora_config
from learner.training.checkpoints import checkpoint_error, step_of, write_checkpoint, write_files
from learner.training.error_text import describe_error
from learner.training.model import Device
from learner.training.trainer import SFTConfig, SFTTrainer

logger = logging.getLogger(__name__)

WHOLE_MODEL_FILE = "model.safetensors"  # transformers looks for this name in a checkpoint
# A full disk raises OSError in Python, RuntimeError in torch and SafetensorError in safetensors.
SAVING_ERRORS = (OSError, RuntimeError, SafetensorError)
IGNORED = -100  # label of tokens without loss
STEPS_PER_WINDOW = (
    8  # windows of this many steps, with random pairs, are sorted by length before they are split into steps
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSettings:
    """Folder and frequency of checkpoints."""

    folder: Path
    every_steps: int
    keep: int  # number of newest checkpoints to keep
    fallback_folder: Path  # for the last checkpoint, if ``folder`` cannot be written


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneResult:
    """Result of a training."""

    model: Any  # the model, or the PEFT model
    step: int
    checkpoint: Path | None = None  # of that step; None without CheckpointSettings


class StepsOfSimilarLengths(torch.utils.data.Sampler[int]):
    """Order of an epoch: pairs of a step have similar lengths, for little padding, and the steps are in random order.

    transformers' group_by_length goes from long to short pairs over dozens of steps and then starts over, and the weights
    oscillate with it. The order depends only on seed and epoch, so a resumed training has the same order.
    """

    def __init__(self, lengths: Sequence[int], *, step_size: int, seed: int) -> None:
        self._lengths = lengths
        self._step_size = step_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, counted from 0; the trainer calls this before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(self._seed)
        for _ in range(self._epoch):
            self._ordered(generator)
        return iter(self._ordered(generator))

    def _ordered(self, generator: random.Random) -> list[int]:
        drawn = generator.sample(range(len(self)), len(self))
        size = STEPS_PER_WINDOW * self._step_size
        windows = (drawn[start : start + size] for start in range(0, len(drawn), size))
        in_order = [pair for window in windows for pair in sorted(window, key=self._lengths.__getitem__)]
        *whole, last = (in_order[start : start + self._step_size] for start in range(0, len(drawn), self._step_size))
        generator.shuffle(whole)
        return [*chain(*whole, last)]  # the last step may be smaller, and must stay last


class _CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's SFT with label smoothing and a loss on prompt tokens; both need all logits of a forward pass."""

    def __init__(
        self,
        *,
        schedule: SftSchedule,
        sampler: StepsOfSimilarLengths,
        saving: CheckpointSettings | None,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._schedule = schedule
        self._sampler = sampler
        self._saving = saving
        self.saved: Path | None = None  # newest checkpoint
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, _: Dataset | None = None) -> StepsOfSimilarLengths:
        return self._sampler

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the micro-batch's share of the step's loss."""
        schedule = self._schedule
        if schedule.label_smoothing == 0 and schedule.prompt_loss_weight == 0:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"][:, 1:]
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        has_loss = labels != IGNORED
        loss = torch.nn.functional.cross_entropy(
            logits[has_loss], labels[has_loss], label_smoothing=schedule.label_smoothing, reduction="sum"
        )
        is_prompt = (mask[:, 1:] == 1) & ~has_loss
        if schedule.prompt_loss_weight > 0 and is_prompt.any():
            prompt_loss = torch.nn.functional.cross_entropy(logits[is_prompt], ids[:, 1:][is_prompt])
            loss = loss + schedule.prompt_loss_weight * prompt_loss * has_loss.sum()
        return loss / num_items_in_batch

    def _save_checkpoint(self, model: Any, trial: Any) -> None:  # noqa: ARG002
        """Write a complete checkpoint or none. A failure before the last step is logged; the last one has a fallback folder."""
        saving, step = self._saving, self.state.global_step
        if saving is None or (self.saved and step_of(self.saved) == step):
            return
        try:
            self.saved = write_checkpoint(saving.folder, step, self._save_to, keep=saving.keep)
            return
        except SAVING_ERRORS as error:
            refused = checkpoint_error(saving.folder, error)
        if not self.control.should_training_stop:
            logger.warning("%s; training continues", refused)
            return
        try:
            saving.fallback_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.saved = write_checkpoint(saving.fallback_folder, step, self._save_to, keep=1)
        except SAVING_ERRORS as error:
            raise LearnerError(f"{refused}; nor to {saving.fallback_folder}: {describe_error(error)}") from error
        logger.warning("%s; the checkpoint of step %d is in %s", refused, step, self.saved)

    def _save_to(self, folder: Path) -> None:
        self.args.output_dir = str(folder.parent)
        super()._save_checkpoint(self.model, trial=None)
        (folder.parent / f"checkpoint-{self.state.global_step}").rename(folder)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        """Write only the trained weights, without hub requests and transformers' checks of whole models."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(self.model, PeftModel):
            write_files(pack_adapter(self.model, dtype=torch.float32), folder)
        else:
            save_model(self.model, str(folder / WHOLE_MODEL_FILE))

    def _send_telemetry(self) -> None:
        """Send no telemetry."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card: the caller writes one."""


def fine_tune(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    schedule: SftSchedule,
    *,
    lora: LoraSettings | None,
    device: Device,
    scratch: Path,
    gradient_checkpointing: bool = False,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
    saving: CheckpointSettings | None = None,
    resumed: Path | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> FineTuneResult:
    """Train all weights of a model in place or, with ``lora``, an adapter for it. Raises LearnerError.

    Each epoch uses every pair once. On the CPU, a resumed training has the same result as an uninterrupted one.

    Args:
        scratch: a folder for TRL.
        on_step: called after each step with its number, from 1, and its loss in nats per token.
        saving: None writes no checkpoints; otherwise the last step gets one too.
        resumed: checkpoint to resume from.
        is_stopped: once it returns True, the running step is the last.
    """
    if not pairs:
        raise LearnerError("there is no prompt-completion pair to train on")
    check_batch(schedule)
    rows = {
        "input_ids": [[*prompt, *completion] for prompt, completion in pairs],
        "labels": [[*[IGNORED] * len(prompt), *completion] for prompt, completion in pairs],
    }
    uses_cache = model.config.use_cache
    try:
        trainer = _CompletionTrainer(
            schedule=schedule,
            sampler=StepsOfSimilarLengths(
                [len(ids) for ids in rows["input_ids"]], step_size=schedule.batch_size, seed=schedule.seed
            ),
            saving=saving,
            model=model,
            processing_class=tokenizer,
            args=_arguments(schedule, device, scratch, gradient_checkpointing, saving),
            train_dataset=Dataset.from_dict(rows),
            peft_config=None if lora is None else lora_config(lora, model, model.name_or_path),
            callbacks=[_StepCallback(on_step, is_stopped)],
        )
        trainer.saved = resumed
        with disable_input_dtype_casting(trainer.model, active=trainer.args.bf16):  # as in GroupTrainer.train
            trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
    except ValueError as error:  # of TRL and PEFT, for settings that do not fit the model
        raise LearnerError(f"supervised training cannot be set up: {error}") from error
    trained = trainer.accelerator.unwrap_model(trainer.model)
    trained.config.use_cache = uses_cache  # the trainer turned it off, and would save the model without a cache
    return FineTuneResult(model=trained, step=trainer.state.global_step, checkpoint=trainer.saved)


def check_batch(schedule: SftSchedule) -> None:
    """Raise LearnerError if a step cannot be split into micro-batches of equal size."""
    if schedule.batch_size % schedule.micro_batch_size:
        raise LearnerError(
            f"a batch of {schedule.batch_size} pairs cannot be split into micro-batches of {schedule.micro_batch_size}: "
            "use a divisor"
        )


def load_weights(model: Any, checkpoint: Path) -> None:
    """Load all weights of a model from a checkpoint of ``fine_tune`` without ``lora``; raises LearnerError."""
    try:
        safetensors_load_model(model, str(checkpoint / WHOLE_MODEL_FILE))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise LearnerError(f"the checkpoint {checkpoint} cannot be loaded: {describe_error(error)}") from error


class _StepCallback(TrainerCallback):  # type: ignore[misc]
    """Reports the loss of each step, and stops the training on request or at a loss that is not finite."""

    def __init__(self, on_step: Callable[[int, float], None], is_stopped: Callable[[], bool]) -> None:
        self._on_step = on_step
        self._is_stopped = is_stopped

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        """Stop after this step on request; the trainer calls this before it saves."""
        if self._is_stopped():
            control.should_training_stop = True
            control.should_save = True

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """Report the loss of a step; the trainer calls this after each step, and once with a summary."""
        if logs and "loss" in logs:
            if not torch.isfinite(torch.tensor([logs["loss"], logs["grad_norm"]])).all():
                raise LearnerError(
                    f"step {state.global_step} diverged: loss {logs['loss']}, gradient norm {logs['grad_norm']}; "
                    "try a lower learning rate"
                )
            self._on_step(state.global_step, logs["loss"])


def _arguments(
    schedule: SftSchedule,
    device: Device,
    scratch: Path,
    gradient_checkpointing: bool,
    saving: CheckpointSettings | None,
) -> SFTConfig:
    return SFTConfig(
        output_dir=str(scratch),
        max_steps=schedule.num_steps or -1,
        num_train_epochs=schedule.num_epochs,
        per_device_train_batch_size=schedule.micro_batch_size,
        gradient_accumulation_steps=schedule.batch_size // schedule.micro_batch_size,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=schedule.num_warm_up_steps,
        adam_beta2=0.98,
        weight_decay=schedule.weight_decay,
        max_grad_norm=schedule.max_grad_norm,
        seed=schedule.seed,
        gradient_checkpointing=gradient_checkpointing,
        use_cpu=device.use_cpu,
        bf16=device.dtype == torch.bfloat16,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},  # the dataset has token ids and labels already
        logging_nan_inf_filter=False,
        logging_steps=1,
        save_strategy="steps" if saving else "no",
        save_steps=saving.every_steps if saving else 1,
        report_to="none",
        disable_tqdm=True,
    )
