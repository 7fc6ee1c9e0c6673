"""Estimates of the GPU memory of a sampler and of a rank of the learner, before either is started.

Weights, adapters, cache and optimizer state are counted exactly. Activations (what one pass keeps for its backward pass, after
Korthikanti et al. 2022, section 4, for a gated MLP) and the memory of CUDA, kernels and graphs are rough, on the careful side.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config.config import Config
from cluster.placement.plan.model_shape import BYTES, GIB, ModelShape
from rollout.environment import engine_arguments

RUNTIME_GIB = 1.0  # CUDA context and library workspaces of each process
GRAPHS_GIB = 1.0  # CUDA graphs of an engine
PASS_TOKENS = 8192  # most tokens that vLLM prefills in one pass
GRADIENT_BYTES = 8  # float32, per parameter of the adapter: itself and its gradient; every optimizer has them
ADAPTER_STATE_BYTES = 16  # float32, per parameter: itself, its gradient, Adam's two moments


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of one process on its GPU."""

    parts: Mapping[str, float]  # name -> GiB
    limit: float  # GiB that the process may take
    known: float  # GiB that it takes for certain

    @property
    def total(self) -> float:
        """GiB of all parts together."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerMemory(Memory):
    """Memory of an engine on each of its GPUs. It takes all of its limit: the rest becomes KV cache."""

    cache: float  # GiB of KV cache; negative if the other parts do not fit
    gib_per_sequence: float  # KV cache of one completion of full length

    @property
    def num_sequences(self) -> float:
        """Completions of full length that the cache holds."""
        return max(0.0, self.cache) / self.gib_per_sequence


def sampler_memory(config: Config, shape: ModelShape, gpu_gib: float) -> SamplerMemory:
    """Memory of one engine on a GPU of ``gpu_gib``, or on each GPU that it is split over.

    Weights and heads are divided over the GPUs; adapters and activations, which are divided in part, are counted in full.
    """
    rollout = config.rollout
    num_gpus = rollout.tensor_parallel_size
    bytes_each = BYTES[rollout.served_dtype]
    arguments = engine_arguments(rollout, config.model.path, config.learner.lora.r, (), config.loop.max_staleness)
    adapter = shape.num_adapter_parameters(config.learner.lora.r, config.learner.lora.target_modules) * bytes_each
    rows = max(PASS_TOKENS, arguments["max_model_len"])
    activations = rows * (2 * shape.intermediate + 4 * shape.hidden) * bytes_each
    # Three float32 copies: as computed, at temperature, as probabilities.
    logits = 3 * 4 * rollout.max_concurrent_requests * shape.vocabulary
    parts = {
        "weights": shape.num_parameters * bytes_each / num_gpus / GIB,
        "adapters": arguments.get("max_loras", 0) * adapter / GIB,
        "activations": activations / GIB,
        "logits": logits / GIB,
        "runtime": RUNTIME_GIB + (0.0 if rollout.enforce_eager else GRAPHS_GIB),
    }
    sequence = arguments["max_model_len"] * shape.cache_bytes_per_token(rollout.served_dtype, num_gpus) / GIB
    total = sum(parts.values())
    if rollout.kv_cache_memory_bytes is None:
        limit = rollout.gpu_memory_utilization * gpu_gib
        cache, least = limit - total, sequence
    else:
        cache = least = rollout.kv_cache_memory_bytes / GIB
        limit = total + cache
    return SamplerMemory(
        parts=parts, limit=limit, known=parts["weights"] + least, cache=cache, gib_per_sequence=sequence
    )


def learner_memory(config: Config, shape: ModelShape, limit: float) -> Memory:
    """Memory of one rank of the learner that may take ``limit`` GiB."""
    learner = config.learner
    bytes_each = BYTES["bfloat16" if learner.dtype == "auto" else learner.dtype]
    shards = learner.num_ranks if learner.shard_base else 1
    trained = shape.num_adapter_parameters(learner.lora.r, learner.lora.target_modules)
    # A completion that exceeds the budget has a pass of its own.
    num_tokens = max(
        learner.micro_batch_tokens, config.rollout.max_prompt_tokens + config.rollout.max_completion_tokens
    )
    per_layer = _layer_bytes_per_token(config, shape, bytes_each)
    # With checkpointing each layer keeps only its input, and one layer at a time is computed again.
    per_token = (
        shape.layers * shape.hidden * bytes_each + per_layer
        if learner.gradient_checkpointing
        else shape.layers * per_layer
    )
    parts = {
        "weights": shape.num_parameters * bytes_each / shards / GIB,
        "adapter and optimizer": ADAPTER_STATE_BYTES * trained / GIB,
        "activations": num_tokens * per_token / GIB,
        "logits": num_tokens * shape.vocabulary * (bytes_each + 4 + 4) / GIB,  # as computed, in float32, gradient
        "runtime": RUNTIME_GIB,
    }
    return Memory(parts=parts, limit=limit, known=parts["weights"] + GRADIENT_BYTES * trained / GIB)


def _layer_bytes_per_token(config: Config, shape: ModelShape, bytes_each: int) -> int:
    """Bytes per token that a layer keeps for its backward pass."""
    lora = config.learner.lora
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # Inputs and outputs of both norms; queries, keys, values; output of attention; gate, its SiLU, up, their product.
    kept = bytes_each * (4 * shape.hidden + 2 * queries + 2 * keys + 4 * shape.intermediate)
    # PEFT computes the adapter in float32: each projection keeps its input in float32, and a second time after dropout.
    copies = 2 if lora.dropout else 1
    inputs = (size[0] for size in shape.targets(lora.target_modules).values())
    return kept + sum(4 * (copies * width + lora.r) for width in inputs)
