"""Construction of the trainer: TRL and PEFT arguments from the settings."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig

from cluster.errors import LearnerError
from learner.batch.tensors import MicroBatch
from learner.lora_settings import LoraSettings
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings
from learner.training.model import Device
from learner.training.process_group import ProcessGroup
from learner.training.targets import short_names, target_names
from learner.training.trainer import GroupTrainer, GRPOConfig

# Settings with a TRL option of the same name that TRL must not get: it sees single steps, and the worker writes checkpoints.
NOT_FOR_TRL = ("num_iterations", "save_total_limit")


def build_trainer(
    model: Any,
    tokenizer: Any,
    *,
    settings: LearnerSettings,
    plan: LearnerPlan,
    device: Device,
    batches: Iterator[list[MicroBatch]],
    process_group: ProcessGroup,
) -> GroupTrainer:
    """Build a trainer whose ``train()`` takes one optimizer step per item of ``batches``: this rank's micro-batches of the step.

    Raises LearnerError if TRL or PEFT refuses the settings.
    """
    try:
        return GroupTrainer(
            batches=batches,
            settings=settings,
            process_group=process_group,
            model=model,
            processing_class=tokenizer,
            args=trl_arguments(settings, plan, device),
            peft_config=None if settings.method == "full" else lora_config(settings.lora, model, plan.model),
            # TRL requires a dataset and a reward function; it reads neither here.
            train_dataset=Dataset.from_dict({"prompt": [""]}),
            reward_funcs=_no_reward,
        )
    except ValueError as error:
        raise LearnerError(f"the learner cannot be set up for model {plan.model!r}: {error}") from error


def trl_arguments(settings: LearnerSettings, plan: LearnerPlan, device: Device) -> GRPOConfig:
    """Return the settings as TRL's config; TRL's options for Caravan's own parts are turned off."""
    names = {field.name for field in fields(GRPOConfig)} & LearnerSettings.model_fields.keys() - set(NOT_FOR_TRL)
    return GRPOConfig(
        **settings.model_dump(include=names),
        output_dir=str(plan.checkpoints_dir),
        max_steps=plan.max_steps * settings.num_iterations,
        seed=plan.seed,
        temperature=plan.temperature,
        max_completion_length=plan.max_completion_tokens,
        # With a coefficient, TRL would load a reference of all weights at once; FullModel loads one when it is needed.
        beta=0.0 if settings.method == "full" else settings.kl_coefficient,
        # Routers are frozen: a load-balancing loss would only change the attention layers before them.
        router_aux_loss_coef=0.0,
        use_cpu=device.use_cpu,
        bf16=device.dtype == torch.bfloat16,
        # GroupTrainer.training_step runs the micro-batches: for TRL a step is one pass, and the next sizes are not used.
        gradient_accumulation_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        # The driver continues the stream of a resumed run; skipping items of the queue would drop steps.
        ignore_data_skip=True,
        # A NaN loss must be reported, not filtered.
        logging_nan_inf_filter=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def lora_config(settings: LoraSettings, model: Any, model_name: str) -> LoraConfig:
    """Return PEFT's config of the adapter; raises ConfigError for target modules that the model does not have."""
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        use_rslora=settings.use_rslora,
        lora_dropout=settings.dropout,
        bias=settings.bias,
        target_modules=short_names(model, target_names(model, settings, model_name)),
        task_type="CAUSAL_LM",
    )


def _no_reward(**_: Any) -> list[float]:
    raise LearnerError(
        "TRL called the reward function, but completions arrive graded: an override in learner/training/trainer.py is not used"
    )
