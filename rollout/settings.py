"""The ``rollout`` section of the configuration."""

from datetime import date
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.errors import ConfigError
from cluster.setting_traits import Trait

LoraRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]
LORA_RANKS: tuple[int, ...] = get_args(LoraRank)

MAX_SAMPLERS = 1024
"""Engines of one run; far fewer keep one driver busy."""


class RolloutSettings(BaseModel):
    """How many samplers there are, what they sample and how long anyone waits for them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_samplers: Annotated[int, Trait.PLACEMENT] = Field(
        1, ge=1, le=MAX_SAMPLERS, description="Ray actors with one vLLM engine each, at the start"
    )
    min_samplers: Annotated[int | None, Trait.PLACEMENT] = Field(
        None,
        ge=1,
        le=MAX_SAMPLERS,
        description="the pool starts where there is room for so many, and shrinks to them where samplers idle; "
        "null: num_samplers",
    )
    max_samplers: Annotated[int | None, Trait.PLACEMENT] = Field(
        None,
        ge=1,
        le=MAX_SAMPLERS,
        description="the pool grows to so many where groups wait for samplers and there is room; null: num_samplers",
    )
    group_size: Annotated[int, Trait.CHANGEABLE] = Field(
        6, description="completions per problem, compared with one another; at least 2"
    )
    temperature: Annotated[float, Trait.CHANGEABLE] = Field(
        0.9, gt=0, le=2, description="sampling temperature of the training rollouts"
    )
    max_prompt_tokens: int = Field(
        704, ge=1, description="tokens; problems with a longer prompt are refused, never cut"
    )
    max_completion_tokens: Annotated[int, Trait.CHANGEABLE] = Field(
        512, ge=1, description="tokens after which a completion is stopped"
    )
    stop: tuple[str, ...] = Field(
        ("(* END *)",), description="strings that end a completion; the one that does is kept in its text"
    )
    num_few_shot: int = Field(0, ge=0, le=3, description="solved examples shown before each problem")
    prompt_date: date | None = Field(
        None,
        description="the date that a chat template may write into prompts; null: the day on which the run was started, also "
        "where it is resumed or its adapter evaluated later",
    )

    cpus_per_sampler: Annotated[float, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        1.0, gt=0, description="CPU cores that Ray reserves for each sampler"
    )
    gpus_per_sampler: Annotated[float, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        0.0,
        ge=0,
        le=1,
        description="GPU (or the fraction of one) that Ray reserves for each sampler, tensor_parallel_size times; "
        "0 samples on the CPU",
    )
    tensor_parallel_size: Annotated[int, Trait.PLACEMENT] = Field(
        1, ge=1, le=64, description="GPUs of one machine, whole ones, that each engine's weights are split over"
    )
    gpu_memory_utilization: Annotated[float, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        0.85, gt=0, le=1, description="fraction of the GPU's memory that an engine takes; less where GPUs are shared"
    )
    kv_cache_gib: Annotated[float, Trait.PLACEMENT] = Field(
        1.0, gt=0, description="GiB of KV cache per engine on the CPU; GPUs use what is left"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the served weights; auto is float32 on the CPU and bfloat16 on a GPU"
    )
    enforce_eager: bool = Field(False, description="skip compilation and CUDA graphs: quicker start, slower tokens")
    max_concurrent_requests: Annotated[int, Trait.PLACEMENT] = Field(
        64, ge=1, description="completions that an engine samples at a time; further groups wait in the pool"
    )
    weight_sync_mode: Literal["versions", "in_flight", "merged"] = Field(
        "versions",
        description="what a new policy does to running completions: versions lets each end on the policy it began with; "
        "in_flight puts the new adapter under them, merged new weights (no LoRA in the engine: faster on the CPU)",
    )
    weight_sync_tolerance: float | None = Field(
        None,
        gt=0,
        description="mean difference, in nats per token, to the learner's log-probabilities at which a sampler fails to "
        "prove that it serves a policy; unset: 0.001 in float32, 0.05 in bfloat16",
    )

    start_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        600, gt=0, description="seconds for a sampler to be placed and its engine to start"
    )
    request_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        600,
        gt=0,
        description="seconds until the next completion of a group must be there; then its sampler is restarted",
    )
    publish_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        120, gt=0, description="seconds for every sampler to load a new policy"
    )

    @field_validator("group_size")
    @classmethod
    def _a_group_compares(cls, group_size: int) -> int:
        if group_size < 2:
            raise ValueError(
                f"group_size={group_size}: GRPO scores a completion against the others of its group, "
                "so that a group of one never has an advantage to learn from; use 2 or more (4 to 16 is usual)"
            )
        return group_size

    @field_validator("stop")
    @classmethod
    def _a_stop_string_has_characters(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("stop: an empty string would end every completion before its first character")
        return stop

    @model_validator(mode="after")
    def _the_start_is_between_floor_and_ceiling(self) -> "RolloutSettings":
        if not self.minimum <= self.num_samplers <= self.maximum:
            raise ValueError(
                f"rollout.num_samplers={self.num_samplers} has to lie between rollout.min_samplers={self.minimum} and "
                f"rollout.max_samplers={self.maximum}"
            )
        return self

    @model_validator(mode="after")
    def _an_engine_is_split_over_whole_gpus(self) -> "RolloutSettings":
        if self.tensor_parallel_size > 1 and self.gpus_per_sampler not in (0, 1):
            raise ValueError(
                f"rollout.tensor_parallel_size={self.tensor_parallel_size} splits an engine over whole GPUs, and "
                f"rollout.gpus_per_sampler={self.gpus_per_sampler:g} is a fraction of one: leave it out, or set it to 1"
            )
        return self

    @property
    def minimum(self) -> int:
        """The smallest number of samplers that the pool has on its own."""
        return self.num_samplers if self.min_samplers is None else self.min_samplers

    @property
    def maximum(self) -> int:
        """The largest number of samplers that the pool has on its own."""
        return self.num_samplers if self.max_samplers is None else self.max_samplers

    @property
    def bundle(self) -> dict[str, float]:
        """What each sampler takes of one machine, by Ray's names of resources."""
        gpus = self.tensor_parallel_size * self.gpus_per_sampler
        return {"CPU": self.cpus_per_sampler} | ({"GPU": gpus} if gpus else {})

    @property
    def served_dtype(self) -> Literal["float32", "bfloat16"]:
        """What the engine computes in: float32 samples as fast as bfloat16 on most CPUs, and agrees with the learner."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.gpus_per_sampler == 0 else "bfloat16"


def check_lora_rank(rank: int) -> None:
    """Refuse, with a ConfigError, a LoRA rank that vLLM cannot serve."""
    if rank not in LORA_RANKS:
        raise ConfigError(f"LoRA rank {rank} cannot be served by vLLM; it takes {', '.join(map(str, LORA_RANKS))}")
