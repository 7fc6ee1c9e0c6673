"""The ``learner`` section of the configuration; TRL's own names where TRL has one, so that its documentation applies."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

LORA_RANKS_OF_VLLM = (1, 8, 16, 32, 64, 128, 256, 320, 512)

LossType = Literal["dapo", "grpo", "bnpo", "dr_grpo"]
ScaleRewards = Literal["group", "batch", "none"]


class LoraSettings(BaseModel):
    """The low-rank adapter that is trained (Hu et al. 2021); the defaults are those of the first training analysis."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(32, description="rank of the update matrices; vLLM serves 1, 8, 16, 32, 64, 128, 256, 320 and 512")
    alpha: int = Field(64, ge=1, description="the update is scaled by alpha / r")
    dropout: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="dropout before the adapter while training; it blurs the ratio to the sampler a little",
    )
    bias: Literal["none"] = Field(
        "none", description="biases stay as they are: vLLM serves no adapter that changes them"
    )
    target_modules: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="the projections that carry an adapter; never lm_head, whose adapter TRL would not train",
    )

    @field_validator("r")
    @classmethod
    def _vllm_serves_the_rank(cls, rank: int) -> int:
        if rank not in LORA_RANKS_OF_VLLM:
            allowed = ", ".join(map(str, LORA_RANKS_OF_VLLM))
            raise ValueError(f"lora.r={rank}: vLLM serves no adapter of this rank; allowed are {allowed}")
        return rank

    @field_validator("target_modules")
    @classmethod
    def _the_head_is_left_alone(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "lm_head" in names:
            raise ValueError(
                "lora.target_modules contains lm_head: TRL reads the head's own weight, so that an adapter on it would never "
                "be trained; leave it out"
            )
        return names


class LearnerSettings(BaseModel):
    """How the policy is updated, where, and how long anyone waits for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora: LoraSettings = LoraSettings()

    loss_type: LossType = Field(
        "dapo",
        description="what the sum over tokens is divided by; dapo: the tokens of the whole step, so that every token weighs the "
        "same however long its completion is and however the step is cut into micro-batches",
    )
    epsilon: float = Field(0.2, gt=0, lt=1, description="the ratio of a token is clipped to 1 - epsilon .. 1 + epsilon")
    num_iterations: int = Field(
        1,
        ge=1,
        description="optimizer steps on each batch; from the second on, the clipped ratio holds the policy back",
    )
    kl_coefficient: float = Field(
        0.0,
        ge=0,
        description="weight of the KL divergence to the model without adapter (TRL: beta); 0 skips its forward pass",
    )
    scale_rewards: ScaleRewards = Field(
        "group",
        description="divide advantages by the standard deviation of their group's rewards, of the step's, or not at all",
    )

    learning_rate: float = Field(5e-6, gt=0, description="peak learning rate of AdamW")
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] = Field(
        "linear", description="how the learning rate goes on after the warm-up, over all steps of the run"
    )
    warmup_steps: float = Field(
        0.0, ge=0, description="optimizer steps of linear warm-up from 0; below 1: the fraction of the run's steps"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm where theirs is larger")

    micro_batch_size: int = Field(
        8,
        ge=1,
        description="completions in one forward and backward pass; a question of memory only: a step is the sum of its passes",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, about a third slower"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the frozen weights and the forward pass; auto is float32 on the CPU and bfloat16 on a GPU",
    )
    gpus: float = Field(
        0.0, ge=0, le=1, description="GPU (or the fraction of one) that Ray reserves; 0 learns on the CPU"
    )
    cpus: float = Field(1.0, ge=0, description="CPU cores that Ray reserves")
    num_threads: int = Field(1, ge=1, description="threads of torch on the CPU; more than free cores make it slower")

    save_total_limit: int = Field(3, ge=1, description="checkpoints that are kept; older ones are deleted")

    start_deadline_seconds: float = Field(
        900, gt=0, description="seconds for the learner to be placed and to load its model"
    )
    step_deadline_seconds: float = Field(1800, gt=0, description="seconds for one optimizer step")
    save_deadline_seconds: float = Field(600, gt=0, description="seconds to write a checkpoint or an adapter")
