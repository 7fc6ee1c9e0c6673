"""The ``rollout`` section of the configuration."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.errors import ConfigError
from cluster.setting_traits import Trait
from rollout.engine_options import check_options, is_quantized

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's max_lora_rank."""

MAX_SAMPLERS = 1024
"""Maximum number of engines of a run; far fewer keep one driver busy."""


class RolloutSettings(BaseModel):
    """Number of samplers, sampling parameters, engine options and deadlines."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_samplers: Annotated[int, Trait.PLACEMENT] = Field(
        1, ge=1, le=MAX_SAMPLERS, description="Ray actors with one vLLM engine each, at the start of the run"
    )
    min_samplers: Annotated[int | None, Trait.PLACEMENT] = Field(
        None,
        ge=1,
        le=MAX_SAMPLERS,
        description="the run starts with at least this many samplers, and idle samplers are stopped down to it; null: "
        "num_samplers",
    )
    max_samplers: Annotated[int | None, Trait.PLACEMENT] = Field(
        None,
        ge=1,
        le=MAX_SAMPLERS,
        description="samplers are added up to this number while groups wait and resources are free; null: num_samplers",
    )
    group_size: Annotated[int, Trait.CHANGEABLE] = Field(6, description="completions per problem; at least 2")
    temperature: Annotated[float, Trait.CHANGEABLE] = Field(
        0.9, gt=0, le=2, description="sampling temperature of the training rollouts"
    )
    max_prompt_tokens: int = Field(
        704, ge=1, description="maximum prompt length; problems with a longer prompt are skipped, never truncated"
    )
    max_completion_tokens: Annotated[int, Trait.CHANGEABLE] = Field(512, ge=1, description="maximum completion length")
    stop: tuple[str, ...] = Field(
        ("(* END *)",), description="strings that end a completion; its text includes the string"
    )

    cpus_per_sampler: Annotated[float, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        1.0, gt=0, description="CPU cores that Ray reserves for each sampler"
    )
    gpus_per_sampler: Annotated[float, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        0.0,
        ge=0,
        le=1,
        description="GPU (or the fraction of one) that Ray reserves for each sampler, times tensor_parallel_size; 0: sample on "
        "the CPU",
    )
    tensor_parallel_size: Annotated[int, Trait.PLACEMENT] = Field(
        1, ge=1, le=64, description="whole GPUs of one machine over which each engine's weights are split"
    )
    gpu_memory_utilization: Annotated[float, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        0.85,
        gt=0,
        le=1,
        description="fraction of the GPU's memory for an engine; all of it, or 0.9 with kv_cache_memory_bytes, must be free when "
        "it starts; lower it if GPUs are shared",
    )
    kv_cache_memory_bytes: Annotated[int | None, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        None,
        ge=1,
        description="bytes of KV cache of an engine on each of its GPUs, for GPUs that are shared: the engine then does not "
        "measure what other processes leave; null: the rest of gpu_memory_utilization",
    )
    kv_cache_gib: Annotated[float, Trait.PLACEMENT] = Field(
        1.0, gt=0, description="GiB of KV cache of an engine on the CPU"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="dtype of the served weights; auto: float32 on the CPU, bfloat16 on a GPU"
    )
    enforce_eager: bool = Field(False, description="skip compilation and CUDA graphs: faster start, slower tokens")
    max_concurrent_requests: Annotated[int, Trait.PLACEMENT] = Field(
        64, ge=1, description="completions that an engine samples at a time; more groups wait in the pool"
    )
    max_num_batched_tokens: Annotated[int | None, Trait.PLACEMENT, Trait.FROM_CLUSTER] = Field(
        None,
        ge=1,
        description="tokens of one forward pass of an engine, at least max_concurrent_requests: with more, prompts are prefilled "
        "in fewer passes, which take more memory; null: 8192 on GPUs from 40 GB on and 2048 on others, 4096 on the CPU",
    )
    engine: dict[str, Any] = Field(
        {},
        description="further options of vLLM's engines, by the names of its AsyncEngineArgs, for example {kv_cache_dtype: fp8, "
        "quantization: fp8, cpu_offload_gb: 8, speculative_config: {method: ngram, num_speculative_tokens: 3}}; options that "
        "follow from other settings are refused",
    )
    weight_sync_mode: Literal["auto", "versions", "in_flight", "merged", "full"] = Field(
        "auto",
        description="weight sync mode. auto: merged for samplers on the CPU, versions on GPUs; versions: running completions end "
        "on the policy that they started with; in_flight: they continue under the new adapter; merged: they continue under new "
        "weights (no LoRA in the engine: faster on the CPU); full: the same with weights that were all trained, the only mode "
        "of learner.method=full and its default",
    )
    weight_sync_tolerance: Annotated[float | None, Trait.PLACEMENT] = Field(
        None,
        gt=0,
        description="largest difference to the learner's log-probabilities, in nats per token, with which a sampler's policy is "
        "verified; null: from the difference under the base model, which a run measures at its start",
    )

    start_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        600,
        gt=0,
        description="seconds for a sampler to be placed and its engine to start, times the number of samplers that fit on a GPU "
        "and start there one after another",
    )
    request_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        600,
        gt=0,
        description="seconds to wait for the next completion of a group before its sampler is restarted",
    )
    publish_deadline_seconds: Annotated[float, Trait.PLACEMENT] = Field(
        120, gt=0, description="seconds for every sampler to load a new policy"
    )

    @model_validator(mode="before")
    @classmethod
    def _move_max_num_batched_tokens(cls, values: Any) -> Any:
        """Accept ``engine.max_num_batched_tokens`` for the setting of the same name."""
        engine, name = (values.get("engine") if isinstance(values, dict) else None), "max_num_batched_tokens"
        if not isinstance(engine, dict) or name not in engine:
            return values
        if values.get(name, engine[name]) not in (None, engine[name]):
            raise ValueError(
                f"rollout.engine.{name}={engine[name]} contradicts rollout.{name}={values[name]}: keep one"
            )
        return {**values, name: engine[name], "engine": {key: engine[key] for key in engine if key != name}}

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, engine: dict[str, Any]) -> dict[str, Any]:
        check_options(engine)
        return engine

    @field_validator("group_size")
    @classmethod
    def _check_group_size(cls, group_size: int) -> int:
        if group_size < 2:
            raise ValueError(
                f"group_size={group_size}: GRPO compares a completion with the others of its group, so a group of one "
                "has no advantage; use 2 or more (4 to 16 is usual)"
            )
        return group_size

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("stop: an empty string would end every completion before its first character")
        return stop

    @model_validator(mode="after")
    def _check_num_samplers(self) -> "RolloutSettings":
        if not self.minimum <= self.num_samplers <= self.maximum:
            raise ValueError(
                f"rollout.num_samplers={self.num_samplers} must be between rollout.min_samplers={self.minimum} and "
                f"rollout.max_samplers={self.maximum}"
            )
        return self

    @model_validator(mode="after")
    def _check_num_batched_tokens(self) -> "RolloutSettings":
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < self.max_concurrent_requests:
            raise ValueError(
                f"rollout.max_num_batched_tokens={self.max_num_batched_tokens} must be at least "
                f"rollout.max_concurrent_requests={self.max_concurrent_requests}: each of them gets a token in every pass"
            )
        return self

    @model_validator(mode="after")
    def _check_tensor_parallel(self) -> "RolloutSettings":
        if self.tensor_parallel_size > 1 and self.gpus_per_sampler not in (0, 1):
            raise ValueError(
                f"rollout.tensor_parallel_size={self.tensor_parallel_size} splits an engine over whole GPUs, and "
                f"rollout.gpus_per_sampler={self.gpus_per_sampler:g} is a fraction of one: remove it, or set it to 1"
            )
        return self

    @property
    def minimum(self) -> int:
        """Minimum number of samplers of the autoscaler."""
        return self.num_samplers if self.min_samplers is None else self.min_samplers

    @property
    def maximum(self) -> int:
        """Maximum number of samplers of the autoscaler."""
        return self.num_samplers if self.max_samplers is None else self.max_samplers

    @property
    def bundle(self) -> dict[str, float]:
        """Ray resources of one sampler."""
        gpus = self.tensor_parallel_size * self.gpus_per_sampler
        return {"CPU": self.cpus_per_sampler} | ({"GPU": gpus} if gpus else {})

    @property
    def num_per_gpu(self) -> int:
        """Number of samplers that may share a GPU, which start one after another; 1 without sharing."""
        return int(1 / self.gpus_per_sampler + 1e-6) if 0 < self.gpus_per_sampler < 1 else 1

    @property
    def is_quantized(self) -> bool:
        """True if the engines compute in fewer bits than ``served_dtype``."""
        return is_quantized(self.engine)

    @property
    def chosen_sync_mode(self) -> Literal["versions", "in_flight", "merged", "full"]:
        """Weight sync mode. vLLM computes adapters slowly on the CPU, and a quantizing engine has no plain weights."""
        if self.weight_sync_mode != "auto":
            return self.weight_sync_mode
        return "merged" if self.gpus_per_sampler == 0 and not self.engine.get("quantization") else "versions"

    @property
    def served_dtype(self) -> Literal["float32", "bfloat16"]:
        """Dtype of the engine. On most CPUs, float32 samples as fast as bfloat16, and it agrees with the learner."""
        if self.dtype != "auto":
            return self.dtype
        return "float32" if self.gpus_per_sampler == 0 else "bfloat16"


def max_lora_rank(rank: int) -> int:
    """Return vLLM's max_lora_rank for adapters of a rank: the same or the next larger; raises ConfigError above the largest."""
    for served in LORA_RANKS:
        if served >= rank:
            return served
    raise ConfigError(f"LoRA rank {rank} cannot be served: vLLM serves none above {LORA_RANKS[-1]}")
