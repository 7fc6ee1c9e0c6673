"""The ``learner`` section of the configuration; TRL's own names where TRL has one, so that its documentation applies."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.setting_traits import Trait

ALL_LINEAR = "all-linear"  # PEFT's word
MODULE_NAME = re.compile(r"\w+(\.\w+)*")

LORA_RANKS_OF_VLLM = (1, 8, 16, 32, 64, 128, 256, 320, 512)

LossType = Literal["dapo", "grpo", "bnpo", "dr_grpo", "cispo", "sapo", "luspo", "vespo"]
ScaleRewards = Literal["group", "batch", "none"]
CorrectionMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
CLIPPED_LOSSES = (
    "dapo",
    "grpo",
    "bnpo",
    "dr_grpo",
    "luspo",
)  # those that clip the ratio to 1 - epsilon .. 1 + epsilon_high


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
        (ALL_LINEAR,),
        min_length=1,
        description="names of the linear modules that carry an adapter, for example q_proj,v_proj; all-linear: all of the "
        "decoder's layers, whatever they are called (of Qwen2: q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj). "
        "A name that the model has not is refused; regular expressions are not taken",
    )

    @field_validator("r")
    @classmethod
    def _vllm_serves_the_rank(cls, rank: int) -> int:
        if rank not in LORA_RANKS_OF_VLLM:
            allowed = ", ".join(map(str, LORA_RANKS_OF_VLLM))
            raise ValueError(f"lora.r={rank}: vLLM serves no adapter of this rank; allowed are {allowed}")
        return rank

    @field_validator("target_modules", mode="before")
    @classmethod
    def _names_one_by_one(cls, value: Any) -> Any:
        """Names as people write them: a list, or a text with commas or blanks between them."""
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, Iterable) or not all(isinstance(part, str) for part in parts):
            return value  # refused for its type
        names = (name for part in parts for name in re.split(r"[\s,\[\]\"']+", part) if name)
        return tuple(dict.fromkeys(ALL_LINEAR if name.lower() == ALL_LINEAR else name for name in names))

    @field_validator("target_modules")
    @classmethod
    def _names_of_modules(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "lm_head" in names:
            raise ValueError(
                "lora.target_modules contains lm_head: TRL reads the head's own weight, so that an adapter on it would never "
                "be trained; leave it out"
            )
        if ALL_LINEAR in names and len(names) > 1:
            raise ValueError(f"lora.target_modules contains {ALL_LINEAR} and other names: give one or the other")
        for name in names:
            if name != ALL_LINEAR and not MODULE_NAME.fullmatch(name):
                raise ValueError(
                    f"lora.target_modules contains {name!r}, which is no name of a module; list names, for example q_proj,v_proj"
                    " (regular expressions are not taken)"
                )
        return names


class LearnerSettings(BaseModel):
    """How the policy is updated, where, and how long anyone waits for it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lora: LoraSettings = LoraSettings()

    loss_type: LossType = Field(
        "dapo",
        description="what is summed over the tokens, and what the sum is divided by; dapo: the clipped ratio, by the tokens of "
        "the whole step, so that every token weighs the same however long its completion is",
    )
    epsilon: Annotated[float, Trait.CHANGEABLE] = Field(
        0.2, gt=0, lt=1, description="the ratio of a token is clipped to 1 - epsilon at the least"
    )
    epsilon_high: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None, gt=0, description="and to 1 + epsilon_high at the most (DAPO: 0.28); null: epsilon. cispo: the cap itself"
    )
    delta: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None, gt=0, description="a second bound for the ratio of tokens with a negative advantage; null: none"
    )
    importance_sampling_level: Literal["token", "sequence"] = Field(
        "token",
        description="one ratio for each token, or for each completion (the geometric mean over its tokens: GSPO)",
    )
    sapo_temperature_neg: float = Field(
        1.05, gt=0, description="sapo: of the gate for advantages that are not positive"
    )
    sapo_temperature_pos: float = Field(1.0, gt=0, description="sapo: of the gate for positive advantages")
    vespo_k_pos: float = Field(2.0, ge=0, description="vespo: power of the ratio, for advantages from 0 on")
    vespo_lambda_pos: float = Field(3.0, ge=0, description="vespo: decay with the ratio, for advantages from 0 on")
    vespo_k_neg: float = Field(3.0, ge=0, description="vespo: power of the ratio, for negative advantages")
    vespo_lambda_neg: float = Field(2.0, ge=0, description="vespo: decay with the ratio, for negative advantages")
    num_iterations: int = Field(
        1,
        ge=1,
        description="optimizer steps on each batch; from the second on, the clipped ratio holds the policy back",
    )

    vllm_importance_sampling_correction: bool = Field(
        False,
        description="clip the ratio to the policy at the start of the step, and weigh by that policy's ratio to the sampler, "
        "bounded; false: clip the ratio to the sampler itself, which needs no further forward pass",
    )
    vllm_importance_sampling_mode: CorrectionMode = Field(
        "sequence_mask",
        description="of the correction: a weight for each token or for each completion, bounded or, where it is out of bounds, 0",
    )
    vllm_importance_sampling_clip_max: Annotated[float | None, Trait.CHANGEABLE] = Field(
        3.0, gt=0, description="upper bound of the correction's weights; null: none"
    )
    vllm_importance_sampling_clip_min: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None, gt=0, description="lower bound of the correction's weights; null: none"
    )
    off_policy_mask_threshold: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None,
        gt=0,
        description="completions with a negative advantage leave the loss where the sampler's mean logprob of their tokens is "
        "more nats than this above the trainer's; null: none does",
    )

    top_entropy_quantile: Annotated[float, Trait.CHANGEABLE] = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the step's tokens, those of highest entropy, that are learned from; 1: all",
    )
    entropy_coef: Annotated[float, Trait.CHANGEABLE] = Field(
        0.0, ge=0, description="weight of a bonus for the mean entropy of the step's tokens, against collapse"
    )

    kl_coefficient: Annotated[float, Trait.CHANGEABLE] = Field(
        0.0,
        ge=0,
        description="weight of the KL divergence to the model without adapter (TRL: beta); 0 skips its forward pass",
    )
    kl_target: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None,
        gt=0,
        description="steer kl_coefficient to hold the divergence here, in nats per token (Ziegler et al. 2019); null: fixed",
    )
    kl_horizon: Annotated[int, Trait.CHANGEABLE] = Field(
        10_000, ge=1, description="completions over which kl_coefficient moves by at most a fifth towards kl_target"
    )
    use_bias_correction_kl: bool = Field(
        True, description="weigh the divergence by the ratio, which makes its gradient unbiased (DeepSeek-V3.2)"
    )

    scale_rewards: Annotated[ScaleRewards, Trait.CHANGEABLE] = Field(
        "group",
        description="divide advantages by the standard deviation of their group's rewards, of the step's, or not at all",
    )
    reward_weight: Annotated[float, Trait.CHANGEABLE] = Field(
        1.0,
        gt=0,
        description="advantages are multiplied by it; what counts is its proportion to kl_coefficient and entropy_coef",
    )
    reward_threshold: Annotated[float | None, Trait.CHANGEABLE] = Field(
        None,
        description="completions with a lower reward leave the loss, but not the baseline of their group; null: none does",
    )
    train_top_k: Annotated[int | None, Trait.CHANGEABLE] = Field(
        None,
        ge=1,
        description="only so many completions of each group, those of highest reward, enter the loss; 1 is best-of-n training; "
        "the baseline is that of the whole group; null: all",
    )
    mask_truncated_completions: Annotated[bool, Trait.CHANGEABLE] = Field(
        False,
        description="completions cut off by max_completion_tokens leave the loss, but not the baseline of their group",
    )

    learning_rate: Annotated[float, Trait.CHANGEABLE] = Field(
        5e-6, gt=0, description="peak learning rate of the optimizer"
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
    ] = Field("linear", description="how the learning rate goes on after the warm-up, over all steps of the run")
    lr_scheduler_kwargs: dict[str, float] | None = Field(
        None, description="of the schedule: {min_lr_rate: 0.1} of cosine_with_min_lr, num_cycles, power, lr_end"
    )
    warmup_steps: float = Field(
        0.0, ge=0, description="optimizer steps of linear warm-up from 0; below 1: the fraction of the run's steps"
    )
    optim: Literal["adamw_torch_fused", "adamw_torch", "adafactor", "sgd"] = Field(
        "adamw_torch_fused", description="the optimizer; others need packages that are not installed here"
    )
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="of AdamW: decay of the mean of the gradients")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="of AdamW: decay of the mean of their squares")
    adam_epsilon: float = Field(1e-8, gt=0, description="of AdamW: added to the divisor")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay of the adapter's weights")
    max_grad_norm: Annotated[float, Trait.CHANGEABLE] = Field(
        1.0, gt=0, description="gradients are scaled down to this norm where theirs is larger"
    )

    stop_at_grad_norm: Annotated[float | None, Trait.CHANGEABLE] = Field(
        1000.0,
        gt=0,
        description="a step whose gradient, before it is scaled down, has a larger norm is not taken: the run stops; null: never",
    )
    stop_at_kl: Annotated[float | None, Trait.CHANGEABLE] = Field(
        10.0,
        gt=0,
        description="nor is one at a larger divergence from the model without adapter, in nats per token; it is measured where "
        "kl_coefficient is above 0; null: never",
    )

    micro_batch_tokens: int = Field(
        2048,
        ge=1,
        description="token positions in one forward and backward pass, padding included and a shared prompt counted once: a "
        "question of memory only, since a step is the sum of its passes; a completion that has more of them is a pass of its own",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: less memory, about a third slower"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="of the frozen weights and the forward pass; auto is float32 on the CPU and bfloat16 on a GPU",
    )
    num_ranks: Annotated[int, Trait.PLACEMENT] = Field(
        1,
        ge=1,
        description="processes that share the micro-batches of each step, on one machine or on several; each holds the model, "
        "and has learner.gpus and learner.cpus of its own",
    )
    shard_base: Annotated[bool, Trait.PLACEMENT] = Field(
        False,
        description="spread the frozen weights of the layers over the ranks (FSDP), for models that one GPU cannot hold; slower, "
        "and a prompt is then computed once for each of its completions",
    )
    gpus: Annotated[float, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        0.0, ge=0, le=1, description="GPU (or the fraction of one) that Ray reserves; 0 learns on the CPU"
    )
    cpus: Annotated[float, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        1.0, ge=0, description="CPU cores that Ray reserves"
    )
    num_threads: Annotated[int, Trait.PLACEMENT] = Field(
        1, ge=1, description="threads of torch on the CPU; more than free cores make it slower"
    )

    save_total_limit: Annotated[int, Trait.PLACEMENT] = Field(
        3,
        ge=1,
        description="newest checkpoints that are kept, beside the one that was measured best (evaluation.at_checkpoints)",
    )

    start_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        900, gt=0, description="seconds for the learner to be placed and to load its model"
    )
    step_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        1800, gt=0, description="seconds for one optimizer step"
    )
    save_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        600, gt=0, description="seconds to write a checkpoint or an adapter"
    )

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of each rank on one node, by Ray's names."""
        return {name: amount for name, amount in (("CPU", self.cpus), ("GPU", self.gpus)) if amount > 0}

    @property
    def longest_deadline_seconds(self) -> float:
        """Of all calls of the learner."""
        return max(self.start_deadline_seconds, self.step_deadline_seconds, self.save_deadline_seconds)

    @model_validator(mode="after")
    def _its_options_fit_together(self) -> "LearnerSettings":
        for refused in (self._against_the_loss(), self._against_the_correction(), self._against_the_rest()):
            if refused:
                raise ValueError(f"learner.{refused}")
        return self

    def _against_the_loss(self) -> str | None:
        if self.loss_type == "cispo" and self.epsilon_high is None:
            return "loss_type=cispo: caps the ratio at epsilon_high itself; set learner.epsilon_high (ScaleRL: 5.0)"
        if self.loss_type == "luspo" and self.importance_sampling_level != "sequence":
            return "loss_type=luspo: weighs whole completions; set learner.importance_sampling_level=sequence"
        if self.loss_type == "vespo" and self.importance_sampling_level != "token":
            return "loss_type=vespo: takes the ratio of whole completions itself; set learner.importance_sampling_level=token"
        if self.delta is not None and self.loss_type not in CLIPPED_LOSSES:
            return f"delta={self.delta}: {self.loss_type} has no such bound; leave it out, or take {', '.join(CLIPPED_LOSSES)}"
        upper = 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)
        if self.delta is not None and self.delta <= upper:
            return f"delta={self.delta}: must be above 1 + epsilon_high, which is {upper:g}"
        return None

    def _against_the_correction(self) -> str | None:
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
                f"vllm_importance_sampling_mode={mode}: vespo takes weights of tokens; set token_truncate or token_mask"
            )
        return None

    def _against_the_rest(self) -> str | None:
        if self.shard_base and self.num_ranks == 1:
            return "shard_base: there is one rank, which must hold all; set learner.num_ranks"
        if self.num_ranks > 1 and 0 < self.gpus < 1:
            return f"num_ranks={self.num_ranks}: ranks on GPUs talk by NCCL, which needs a whole one for each; set learner.gpus=1"
        if self.kl_target is not None and self.kl_coefficient == 0:
            return (
                "kl_target: steers kl_coefficient, which would stay at 0; start from learner.kl_coefficient=0.05, say"
            )
        if self.kl_target is not None and self.stop_at_kl is not None and self.stop_at_kl <= self.kl_target:
            return f"stop_at_kl={self.stop_at_kl}: must be above learner.kl_target={self.kl_target}"
        if self.entropy_coef > 0 and self.top_entropy_quantile < 1:
            return (
                f"entropy_coef={self.entropy_coef}: its mean would be over the tokens that learner.top_entropy_quantile picks, "
                "and how many they are is not known before the whole step is computed; use one of the two"
            )
        if self.lr_scheduler_type == "cosine_with_min_lr" and not {"min_lr", "min_lr_rate"} & set(
            self.lr_scheduler_kwargs or ()
        ):
            return "lr_scheduler_type=cosine_with_min_lr: where does it end? Set learner.lr_scheduler_kwargs={min_lr_rate: 0.1}"
        return None
