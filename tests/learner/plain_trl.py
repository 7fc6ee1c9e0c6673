"""TRL's own trainer on one whole batch, with the adapter of a learner."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.learner_contestants import padded
from cluster.types import Group
from tests.learner.factories import MAX_COMPLETION_TOKENS, TEMPERATURE


def loss_and_gradient_norm(
    model_folder: Path,
    adapter: Path,
    groups: Sequence[Group],
    advantages: Sequence[float],
    *,
    weights: Tensor | None = None,
    **options: Any,
) -> tuple[float, float]:
    """Return the result of GRPOTrainer with these options on all completions as one batch; one advantage per completion.

    The ratio compares with the samplers' logprobs; with ``weights [B, T]`` it compares with the policy itself, and the weights
    are TRL's ``importance_sampling_ratio``.
    """
    from datasets import Dataset

    from learner.training.trainer import GRPOConfig, GRPOTrainer

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(model_folder),
        args=GRPOConfig(
            output_dir=str(adapter.parent / "plain"),
            temperature=TEMPERATURE,
            max_completion_length=MAX_COMPLETION_TOKENS,
            per_device_train_batch_size=2,
            num_generations=2,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            **options,
        ),
        peft_config=LoraConfig(
            r=8,
            lora_alpha=16,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        ),
        train_dataset=Dataset.from_dict({"prompt": [""]}),
        reward_funcs=lambda **_: [],
    )
    set_peft_model_state_dict(trainer.model, load_file(adapter / "adapter_model.safetensors"))
    trainer.current_gradient_accumulation_steps = 1  # as train() would set it
    trainer.model.train()
    inputs = _inputs(groups, advantages)
    if weights is not None:
        trainer.use_vllm = True
        inputs |= {"importance_sampling_ratio": weights}
        del inputs["old_per_token_logps"]
    if trainer.beta:
        tokens = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        with torch.no_grad(), trainer.model.disable_adapter():
            inputs["ref_per_token_logps"], _, _ = trainer._get_per_token_logps_and_entropies(
                trainer.model, tokens, mask, inputs["completion_ids"].size(1)
            )
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    return loss.item(), torch.nn.utils.get_total_norm(gradients).item()


def _inputs(groups: Sequence[Group], advantages: Sequence[float]) -> dict[str, Tensor]:
    completions = [each for group in groups for each in group.completions]
    tensors = padded(list(zip(completions, advantages, strict=True)), pad=2)
    return tensors | {"sampling_per_token_logps": tensors["old_per_token_logps"]}
