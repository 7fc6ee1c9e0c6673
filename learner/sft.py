"""Supervised training on pairs of a prompt and the completion that it should get, by TRL's SFTTrainer.

It knows token ids and nothing of problems or text. Only completions carry the loss, unless a weight for prompts says otherwise.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from cluster.types import LearnerError
from learner.building import lora_config
from learner.lessons import Pair, Schedule
from learner.model import Place
from learner.settings import LoraSettings
from learner.trainer import SFTConfig, SFTTrainer

IGNORED = -100  # a label that is not to be learned
NUM_STEPS_SORTED = 8  # steps' worth of pairs, drawn at random, that are sorted by length before they are cut into steps


class StepsOfSimilarLengths(torch.utils.data.Sampler[int]):
    """Every pair once; those of a step have similar lengths, so that little is padding, and steps come in random order.

    What transformers groups by length goes from the longest pairs to the shortest and begins again, dozens of steps each time:
    the weights swing along.
    """

    def __init__(self, lengths: Sequence[int], *, step_size: int, seed: int) -> None:
        self._lengths = lengths
        self._step_size = step_size
        self._random = random.Random(seed)

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        drawn = self._random.sample(range(len(self)), len(self))
        size = NUM_STEPS_SORTED * self._step_size
        stretches = (drawn[start : start + size] for start in range(0, len(drawn), size))
        in_order = [pair for stretch in stretches for pair in sorted(stretch, key=self._lengths.__getitem__)]
        *whole, last = (in_order[start : start + self._step_size] for start in range(0, len(drawn), self._step_size))
        self._random.shuffle(whole)
        yield from chain(*whole, last)  # the last one may be smaller, and would cut all after it elsewhere


class _CompletionTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's SFT with two losses that it has not, or is about to drop; both need the logits of a pass in full."""

    def __init__(self, *, schedule: Schedule, sampler: StepsOfSimilarLengths, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._schedule = schedule
        self._sampler = sampler
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, _: Dataset | None = None) -> StepsOfSimilarLengths:
        return self._sampler

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a micro-batch, as its share of the step's."""
        how = self._schedule
        if how.label_smoothing == 0 and how.prompt_loss_weight == 0:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        ids, mask, labels = inputs["input_ids"], inputs["attention_mask"], inputs["labels"][:, 1:]
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        learned = labels != IGNORED
        loss = torch.nn.functional.cross_entropy(
            logits[learned], labels[learned], label_smoothing=how.label_smoothing, reduction="sum"
        )
        read = (mask[:, 1:] == 1) & ~learned
        if how.prompt_loss_weight > 0 and read.any():
            of_prompts = torch.nn.functional.cross_entropy(logits[read], ids[:, 1:][read])
            loss = loss + how.prompt_loss_weight * of_prompts * learned.sum()
        return loss / num_items_in_batch

    def _send_telemetry(self) -> None:
        """Tell nobody."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Leave it out: whoever asked for the model writes one."""


def fine_tune(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    schedule: Schedule,
    *,
    lora: LoraSettings | None,
    place: Place,
    scratch: Path,
    gradient_checkpointing: bool = False,
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> Any:
    """Train all weights of a model in place or, with ``lora``, an adapter for it; return the model or the PEFT model.

    Calls ``on_step(step, loss)`` after each step, counted from 1; the loss is in nats per token. Every pair is used once before
    any comes again; the pairs of a step have similar lengths. ``scratch`` is a folder that TRL asks for. Raises LearnerError.
    """
    if not pairs:
        raise LearnerError("there is no pair of prompt and completion to learn from")
    if schedule.batch_size % schedule.micro_batch_size:
        raise LearnerError(
            f"a batch of {schedule.batch_size} pairs cannot be cut into micro-batches of {schedule.micro_batch_size}: "
            "give a divisor"
        )
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
            model=model,
            processing_class=tokenizer,
            args=_arguments(schedule, place, scratch, gradient_checkpointing),
            train_dataset=Dataset.from_dict(rows),
            peft_config=None if lora is None else lora_config(lora, model, model.name_or_path),
            callbacks=[_Teller(on_step)],
        )
        trainer.train()
    except ValueError as error:  # of TRL and PEFT: settings that do not go with the model
        raise LearnerError(f"supervised training cannot be set up: {error}") from error
    trained = trainer.accelerator.unwrap_model(trainer.model)
    trained.config.use_cache = (
        uses_cache  # the trainer turned it off; saved so, the model would generate without a cache
    )
    return trained


class _Teller(TrainerCallback):  # type: ignore[misc]
    """Says what each step lost, and stops where that is no number."""

    def __init__(self, on_step: Callable[[int, float], None]) -> None:
        self._on_step = on_step

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """Called by the trainer after each step, and once with a summary."""
        if logs and "loss" in logs:
            if not torch.isfinite(torch.tensor([logs["loss"], logs["grad_norm"]])).all():
                raise LearnerError(
                    f"step {state.global_step} diverged: loss {logs['loss']}, gradient norm {logs['grad_norm']}; "
                    "try a lower learning rate"
                )
            self._on_step(state.global_step, logs["loss"])


def _arguments(schedule: Schedule, place: Place, scratch: Path, gradient_checkpointing: bool) -> SFTConfig:
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
        use_cpu=place.use_cpu,
        bf16=place.dtype == torch.bfloat16,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},  # they are token ids and labels already
        logging_nan_inf_filter=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
