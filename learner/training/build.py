"""A trainer from settings: what TRL and PEFT are told of them."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig

from cluster.errors import LearnerError
from learner.batch.tensors import MicroBatch
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings, LoraSettings
from learner.training.model import Device
from learner.training.process_group import ProcessGroup
from learner.training.targets import short_names, target_names
from learner.training.trainer import GroupTrainer, GRPOConfig

# Of the same name in TRL and in our settings, but not TRL's to know: it sees single steps, and the worker writes checkpoints.
NOT_FOR_TRL = ("num_iterations", "save_total_limit")


def build_trainer(
    model: Any,
    tokenizer: Any,
    *,
    settings: LearnerSettings,
    plan: LearnerPlan,
    place: Device,
    feed: Iterator[list[MicroBatch]],
    ranks: ProcessGroup,
) -> GroupTrainer:
    """A trainer whose ``train()`` takes one optimizer step per item of ``feed``: this rank's micro-batches of the step.

    Raises LearnerError where TRL or PEFT refuses the settings.
    """
    try:
        return GroupTrainer(
            feed=feed,
            settings=settings,
            ranks=ranks,
            model=model,
            processing_class=tokenizer,
            args=trl_arguments(settings, plan, place),
            peft_config=lora_config(settings.lora, model, plan.model),
            # TRL insists on a source of prompts and one of rewards; it reads neither here.
            train_dataset=Dataset.from_dict({"prompt": [""]}),
            reward_funcs=_no_reward,
        )
    except ValueError as error:
        raise LearnerError(f"the learner cannot be set up for model {plan.model!r}: {error}") from error


def trl_arguments(settings: LearnerSettings, plan: LearnerPlan, place: Device) -> GRPOConfig:
    """The settings as TRL has them; what is Caravan's own is set to what makes TRL keep out of it."""
    names = {field.name for field in fields(GRPOConfig)} & LearnerSettings.model_fields.keys() - set(NOT_FOR_TRL)
    return GRPOConfig(
        **settings.model_dump(include=names),
        output_dir=str(plan.checkpoints_dir),
        max_steps=plan.max_steps * settings.num_iterations,
        seed=plan.seed,
        temperature=plan.temperature,
        max_completion_length=plan.max_completion_tokens,
        beta=settings.kl_coefficient,
        # Routers are frozen: a loss for the balance of experts would only pull at the attention before them.
        router_aux_loss_coef=0.0,
        use_cpu=place.use_cpu,
        bf16=place.dtype == torch.bfloat16,
        # Micro-batches are ours (training_step): to TRL a step is one pass, and the sizes below are never read.
        gradient_accumulation_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        # A resumed run is fed by the driver, which knows where it was; replaying the feed would drop steps.
        ignore_data_skip=True,
        # A loss that is not a number must be seen, not smoothed over.
        logging_nan_inf_filter=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def lora_config(settings: LoraSettings, model: Any, called: str) -> LoraConfig:
    """The adapter as PEFT is told of it; raises ConfigError for target modules that the model ``called`` so has not."""
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias=settings.bias,
        target_modules=short_names(model, target_names(model, settings, called)),
        task_type="CAUSAL_LM",
    )


def _no_reward(**_: Any) -> list[float]:
    raise LearnerError(
        "TRL asked for a reward, but completions arrive graded: a seam of learner/training/trainer.py no longer holds"
    )
