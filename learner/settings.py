"""The ``learner`` section of the configuration. Options of TRL have TRL's names, and its documentation applies to them."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.setting_traits import Trait
from learner.lora_settings import LoraSettings
from learner.method import method_conflict, with_learning_rate

LossType = Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"]
ScaleRewards = Literal["group", "batch", "none"]
CorrectionMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
CLIPPED_LOSSES = (
    "dapo",
    "grpo",
    "bnpo",
    "dr_grpo",
    "luspo",
)  # they clip the ratio to 1 - epsilon .. 1 + epsilon_high


class LearnerSettings(BaseModel):
    """Loss, optimizer, resources and deadlines of the learner."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    method: Literal["lora", "full"] = Field(
        "lora",
        description="lora: train an adapter next to frozen weights; full: train all weights, which takes 16 bytes per parameter, "
        "and 4 more for the reference with a kl_coefficient",
    )
    lora: LoraSettings = LoraSettings()
    adapter: Path | None = Field(
        None,
        description="a LoRA adapter folder in PEFT format from which the training starts, made here or elsewhere; learner.lora "
        "follows from it; null: a new adapter, which changes nothing",
    )

    loss_type: LossType = Field(
        "dapo",
        description="the loss per token and its normalization; dapo: the clipped ratio, divided by the number of tokens of the "
        "whole step, so every token has the same weight",
    )
    epsilon: Annotated[float, Trait.CHANGEABLE] = Field(
        0.2, gt=0, lt=1, description="lower clip range of the ratio: 1 - epsilon"
    )
    epsilon_high: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None,
        gt=0,
        description="upper clip range: 1 + epsilon_high (DAPO: 0.28); null: epsilon. In cispo, the cap itself",
    )
    delta: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None, gt=0, description="second upper bound of the ratio, for tokens with a negative advantage; null: none"
    )
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token",
        description="one ratio per token, or per completion (the geometric mean over its tokens: GSPO)",
    )
    sapo_temperature_neg: float = Field(1.05, gt=0, description="sapo: temperature of the gate for advantages up to 0")
    sapo_temperature_pos: float = Field(1.0, gt=0, description="sapo: temperature of the gate for positive advantages")
    vespo_k_pos: float = Field(2.0, ge=0, description="vespo: power of the ratio, for advantages from 0 on")
    vespo_lambda_pos: float = Field(3.0, ge=0, description="vespo: decay with the ratio, for advantages from 0 on")
    vespo_k_neg: float = Field(3.0, ge=0, description="vespo: power of the ratio, for negative advantages")
    vespo_lambda_neg: float = Field(2.0, ge=0, description="vespo: decay with the ratio, for negative advantages")
    num_iterations: int = Field(
        1,
        ge=1,
        description="optimizer steps per batch; clipping takes effect from the second on",
    )

    vllm_importance_sampling_correction: bool = Field(
        False,
        description="clip the ratio to the policy at the start of the step, and weight the loss by that policy's bounded ratio "
        "to the sampler; false: clip the ratio to the sampler, which needs no further forward pass",
    )
    vllm_importance_sampling_mode: CorrectionMode = Field(
        "sequence_mask",
        description="importance weights per token or per completion; out of bounds, they become the bound (truncate) or 0 (mask)",
    )
    vllm_importance_sampling_clip_max: Annotated[float | None, Trait.CHANGEABLE] = Field(
        3.0, gt=0, description="upper bound of the importance weights; null: none"
    )
    vllm_importance_sampling_clip_min: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None, gt=0, description="lower bound of the importance weights; null: none"
    )
    off_policy_mask_threshold: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None,
        gt=0,
        description="mask completions with a negative advantage whose mean logprob under the sampler is more than this many nats "
        "above the trainer's; null: none",
    )

    top_entropy_quantile: Annotated[float, Trait.CHANGEABLE] = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the step's tokens, those of highest entropy, that enter the loss; 1: all",
    )
    entropy_coef: Annotated[float, Trait.CHANGEABLE] = Field(
        0.0, ge=0, description="weight of an entropy bonus, the mean over the step's tokens, against entropy collapse"
    )

    kl_coefficient: Annotated[float, Trait.CHANGEABLE] = Field(
        0.0,
        ge=0,
        description="weight of the KL divergence to the model before training (TRL: beta); 0 skips its forward pass",
    )
    kl_target: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None,
        gt=0,
        description="adapt kl_coefficient to hold the KL divergence here, in nats per token (Ziegler et al. 2019); null: fixed",
    )
    kl_horizon: Annotated[int, Trait.CHANGEABLE] = Field(
        10_000, ge=1, description="completions per adaptation of kl_coefficient by at most a fifth"
    )
    use_bias_correction_kl: bool = Field(
        True, description="weight the KL divergence by the ratio, which makes its gradient unbiased (DeepSeek-V3.2)"
    )

    scale_rewards: Annotated[ScaleRewards, Trait.CHANGEABLE] = Field(
        "group",
        description="divide advantages by the standard deviation of the rewards of the group, of the batch (step), or not at all",
    )
    reward_weight: Annotated[float, Trait.CHANGEABLE] = Field(
        1.0,
        gt=0,
        description="factor of the advantages; only its proportion to kl_coefficient and entropy_coef matters",
    )
    reward_threshold: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None,
        description="mask completions with a lower reward; they stay in the baseline of their group; null: none",
    )
    train_top_k: Annotated[int | None, Trait.CHANGEABLE] = Field(
        None,
        ge=1,
        description="number of completions per group, those of highest reward, that enter the loss; 1 is best-of-n training; the "
        "baseline is that of the whole group; null: all",
    )
    mask_truncated_completions: Annotated[bool, Trait.CHANGEABLE] = Field(
        False,
        description="mask completions truncated at max_completion_tokens; they stay in the baseline of their group",
    )

    learning_rate: Annotated[float, Trait.CHANGEABLE] = Field(
        5e-6, gt=0, description="peak learning rate of the optimizer; with method=full the default is 1e-6"
    )
    lr_scheduler_type: Literal[
        "constant",
        "constant_with_warmup",
        "linear",
        "cosine",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "polynomial",
        "inverse_sqrt",
    ] = Field("linear", description="learning rate schedule after the warm-up, over all steps of the run")
    lr_scheduler_kwargs: dict[str, float] | None = Field(
        None,
        description="arguments of the schedule: {min_lr_rate: 0.1} for cosine_with_min_lr, num_cycles, power, lr_end",
    )
    warmup_steps: float = Field(
        0.0, ge=0, description="optimizer steps of linear warm-up from 0; below 1: the fraction of the run's steps"
    )
    optim: Literal["adamw_torch_fused", "adamw_torch", "adafactor", "sgd"] = Field(
        "adamw_torch_fused", description="the optimizer; others need packages that are not installed here"
    )
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW: decay of the mean of the gradients")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW: decay of the mean of their squares")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW: added to the divisor")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay of the adapter's weights")
    max_grad_norm: Annotated[float, Trait.CHANGEABLE] = Field(
        1.0, gt=0, description="larger gradient norms are scaled down to this"
    )

    stop_at_grad_norm: Annotated[float | None, Trait.CHANGEABLE] = Field(
        1000.0,
        gt=0,
        description="a step with a larger gradient norm before scaling is not taken, and the run stops; null: never",
    )
    stop_at_kl: Annotated[float | None, Trait.CHANGEABLE] = Field(
        10.0,
        gt=0,
        description="a step with a larger KL divergence from the model without adapter, in nats per token, is not taken, and the "
        "run stops; measured if kl_coefficient is above 0; null: never",
    )

    micro_batch_tokens: Annotated[int, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        2048,
        ge=1,
        description="tokens in one forward and backward pass, with padding and a shared prompt counted once; affects only memory "
        "and speed, since a step is the sum of its passes; a longer completion is a pass of its own; unset: on a GPU the largest "
        "of 2048, 4096, 8192 and 16384 that fits well (`caravan plan`)",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, about a third slower"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="dtype of the frozen weights and the forward pass; auto: float32 on the CPU, bfloat16 on a GPU",
    )
    quantization: Literal["nf4", "fp8"] | None = Field(
        None,
        description="precision in which the frozen linear layers of the decoder are kept, for small GPUs: nf4 (4 bits, QLoRA) or "
        "fp8 (8 bits); slower, and further from the samplers' model; null: dtype",
    )
    num_ranks: Annotated[int, Trait.PLACEMENT] = Field(
        1,
        ge=1,
        description="processes that share the micro-batches of each step, on one machine if they fit there; each holds the model "
        "and reserves learner.gpus and learner.cpus",
    )
    shard_base: Annotated[bool, Trait.PLACEMENT] = Field(
        False,
        description="shard the frozen weights of the layers over the ranks (FSDP), for models that one GPU cannot hold; slower, "
        "and prompts are computed once per completion",
    )
    gpus: Annotated[float, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        0.0, ge=0, le=1, description="GPU (or the fraction of one) that Ray reserves; 0: train on the CPU"
    )
    gpu_memory_share: Annotated[float | None, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        None,
        gt=0,
        le=1,
        description="fraction of the GPU's memory that the learner may take; null: what samplers that may share its GPU leave "
        "(rollout.gpu_memory_utilization), and all of a GPU of its own",
    )
    cpus: Annotated[float, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        1.0, ge=0, description="CPU cores that Ray reserves"
    )
    num_threads: Annotated[int, Trait.PLACEMENT] = Field(
        1, ge=1, description="torch threads on the CPU; more than there are free cores is slower"
    )

    save_total_limit: Annotated[int, Trait.PLACEMENT] = Field(
        3,
        ge=1,
        description="number of newest checkpoints to keep, besides the best one (evaluation.at_checkpoints)",
    )

    start_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        900,
        gt=0,
        description="seconds for the learner to be placed and to load its model, after samplers that start on its GPU",
    )
    step_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        1800, gt=0, description="seconds for one optimizer step"
    )
    save_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        600, gt=0, description="seconds to write a checkpoint or an adapter"
    )

    @field_validator("adapter")
    @classmethod
    def _expand_home(cls, adapter: Path | None) -> Path | None:
        return adapter.expanduser() if adapter else None

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of each rank on one node, by Ray's names."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount > 0}

    @property
    def computed_dtype(self) -> Literal["float32", "bfloat16"]:
        """Dtype of the frozen weights and the forward pass."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.gpus == 0 else "bfloat16"

    @property
    def shares_gpu(self) -> bool:
        """True if samplers may run on the learner's GPU."""
        return 0 < self.gpus < 1

    @property
    def longest_deadline_seconds(self) -> float:
        """The longest deadline of all calls of the learner."""
        return max(self.start_deadline_seconds, self.step_deadline_seconds, self.save_deadline_seconds)

    @model_validator(mode="before")
    @classmethod
    def _learning_rate_of_method(cls, values: Any) -> Any:
        return with_learning_rate(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check_combinations(self) -> "LearnerSettings":
        for conflict in (
            method_conflict(self),
            self._loss_conflict(),
            self._importance_weight_conflict(),
            self._other_conflict(),
        ):
            if conflict:
                raise ValueError(f"learner.{conflict}")
        return self

    def _loss_conflict(self) -> str | None:
        if self.loss_type == "cispo" and self.epsilon_high is None:
            return "loss_type=cispo: epsilon_high is the cap of the ratio; set learner.epsilon_high (ScaleRL: 5.0)"
        if self.loss_type == "luspo" and self.importance_sampling_level != "sequence":
            return "loss_type=luspo: its ratio is per completion; set learner.importance_sampling_level=sequence"
        if self.loss_type == "vespo" and self.importance_sampling_level != "token":
            return (
                "loss_type=vespo: computes the ratio per completion itself; set learner.importance_sampling_level=token"
            )
        if self.delta is not None and self.loss_type not in CLIPPED_LOSSES:
            return (
                f"delta={self.delta}: {self.loss_type} has no such bound; remove it, or use {', '.join(CLIPPED_LOSSES)}"
            )
        upper = 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)
        if self.delta is not None and self.delta <= upper:
            return f"delta={self.delta}: must be above 1 + epsilon_high, which is {upper:g}"
        return None

    def _importance_weight_conflict(self) -> str | None:
        low, high = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        mode = self.vllm_importance_sampling_mode
        if low is not None and high is not None and low >= high:
            return f"vllm_importance_sampling_clip_min={low}: must be below learner.vllm_importance_sampling_clip_max={high}"
        if not self.vllm_importance_sampling_correction:
            return None
        if low is None and high is None:
            return f"vllm_importance_sampling_mode={mode}: has no bound; set vllm_importance_sampling_clip_max or _clip_min"
        if self.loss_type == "vespo" and mode.startswith("sequence"):
            return (
                f"vllm_importance_sampling_mode={mode}: vespo needs weights per token; set token_truncate or token_mask"
            )
        return None

    def _other_conflict(self) -> str | None:
        if self.shard_base and self.num_ranks == 1:
            return "shard_base: a single rank must hold all weights; set learner.num_ranks"
        if self.shard_base and self.quantization:
            return f"shard_base: shards plain weights only; remove it, or learner.quantization={self.quantization}"
        if self.num_ranks > 1 and 0 < self.gpus < 1:
            return f"num_ranks={self.num_ranks}: NCCL needs a whole GPU per rank; set learner.gpus=1"
        if self.kl_target is not None and self.kl_coefficient == 0:
            return "kl_target: adapts kl_coefficient, which would stay at 0; set learner.kl_coefficient, for example to 0.05"
        if self.kl_target is not None and self.stop_at_kl is not None and self.stop_at_kl <= self.kl_target:
            return f"stop_at_kl={self.stop_at_kl}: must be above learner.kl_target={self.kl_target}"
        if self.entropy_coef > 0 and self.top_entropy_quantile < 1:
            return (
                f"entropy_coef={self.entropy_coef}: its mean would be over the tokens that learner.top_entropy_quantile selects, "
                "whose number is not known before the whole step is computed; use one of the two"
            )
        if self.lr_scheduler_type == "cosine_with_min_lr" and not {"min_lr", "min_lr_rate"} & set(
            self.lr_scheduler_kwargs or ()
        ):
            return "lr_scheduler_type=cosine_with_min_lr: the minimum is missing; set lr_scheduler_kwargs={min_lr_rate: 0.1}"
        return None
