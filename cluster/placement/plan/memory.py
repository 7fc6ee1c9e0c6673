"""How much of a GPU's memory a sampler and a rank of the learner take, before either is started.

Estimates, on the careful side: exact for weights, adapters, cache and optimizer, which are counted; rough for activations
(what one pass keeps for its backward pass, after Korthikanti et al. 2022, section 4, for a gated MLP) and for what CUDA, kernels
and graphs take themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config.config import Config
from cluster.placement.plan.model_shape import BYTES, ModelShape
from rollout.environment import engine_arguments

GIB = 1024**3
RUNTIME_GIB = 1.0  # CUDA's context and the libraries' workspaces, of each process
GRAPHS_GIB = 1.0  # CUDA graphs of an engine
PASS_TOKENS = 8192  # that vLLM prefills in one pass, at the most
ADAPTER_STATE_BYTES = 16  # float32, of each parameter: itself, its gradient, Adam's two moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one process keeps on its GPU."""

    parts: Mapping[str, float]  # GiB by what it is
    limit: float  # GiB that the process may take

    @property
    def total(self) -> float:
        """GiB of all parts together."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerMemory(Memory):
    """An engine takes all of its limit: what is left over becomes KV cache."""

    cache: float  # GiB of KV cache; below 0 where the rest does not fit
    num_sequences: float  # of full length that the cache holds at a time


def sampler_memory(config: Config, shape: ModelShape, gpu_gib: float) -> SamplerMemory:
    """Of one engine on a GPU of so many GiB, or on each of those that it is split over.

    Weights and heads are divided; adapters and activations, which are so in part, are counted as if they were not.
    """
    rollout = config.rollout
    num_gpus = rollout.tensor_parallel_size
    bytes_each = BYTES[rollout.served_dtype]
    arguments = engine_arguments(rollout, config.model.path, config.learner.lora.r, (), config.loop.max_staleness)
    adapter = shape.num_adapter_parameters(config.learner.lora.r, config.learner.lora.target_modules) * bytes_each
    rows = max(PASS_TOKENS, arguments["max_model_len"])
    activations = rows * (2 * shape.intermediate + 4 * shape.hidden) * bytes_each
    logits = (
        3 * 4 * rollout.max_concurrent_requests * shape.vocabulary
    )  # as they come, at temperature, as probabilities
    parts = {
        "weights": shape.num_parameters * bytes_each / num_gpus / GIB,
        "adapters": arguments.get("max_loras", 0) * adapter / GIB,
        "activations": activations / GIB,
        "logits": logits / GIB,
        "runtime": RUNTIME_GIB + (0.0 if rollout.enforce_eager else GRAPHS_GIB),
    }
    limit = rollout.gpu_memory_utilization * gpu_gib
    cache = limit - sum(parts.values())
    of_a_sequence = arguments["max_model_len"] * shape.cache_bytes_per_token(rollout.served_dtype, num_gpus) / GIB
    return SamplerMemory(parts=parts, limit=limit, cache=cache, num_sequences=max(0.0, cache) / of_a_sequence)


def learner_memory(config: Config, shape: ModelShape, limit: float) -> Memory:
    """Of one rank of the learner that may take ``limit`` GiB."""
    learner = config.learner
    bytes_each = BYTES["bfloat16" if learner.dtype == "auto" else learner.dtype]
    shards = learner.num_ranks if learner.shard_base else 1
    trained = shape.num_adapter_parameters(learner.lora.r, learner.lora.target_modules)
    # The longest completion has a pass of its own where the budget is smaller.
    positions = max(learner.micro_batch_tokens, config.rollout.max_prompt_tokens + config.rollout.max_completion_tokens)
    of_a_layer = _kept_by_a_layer(config, shape, bytes_each)
    # With checkpointing a layer keeps its input alone, and one layer at a time is computed again.
    of_all = (
        shape.layers * shape.hidden * bytes_each + of_a_layer
        if learner.gradient_checkpointing
        else shape.layers * of_a_layer
    )
    parts = {
        "weights": shape.num_parameters * bytes_each / shards / GIB,
        "adapter and optimizer": ADAPTER_STATE_BYTES * trained / GIB,
        "activations": positions * of_all / GIB,
        "logits": positions * shape.vocabulary * (bytes_each + 4 + 4) / GIB,  # as they come, in float32, their gradient
        "runtime": RUNTIME_GIB,
    }
    return Memory(parts=parts, limit=limit)


def _kept_by_a_layer(config: Config, shape: ModelShape, bytes_each: int) -> int:
    """Bytes per position that a layer keeps for its backward pass."""
    lora = config.learner.lora
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # Inputs and outputs of both norms; queries, keys, values; what attention gives; gate, its SiLU, up, their product.
    kept = bytes_each * (4 * shape.hidden + 2 * queries + 2 * keys + 4 * shape.intermediate)
    # PEFT computes the adapter in float32: each projection keeps its input so, dropped out a second time.
    copies = 2 if lora.dropout else 1
    inputs = (size[0] for size in shape.targets(lora.target_modules).values())
    return kept + sum(4 * (copies * width + lora.r) for width in inputs)
