"""Estimate of the GPU memory of a sampler, before it is started.

Weights, adapters and cache are counted exactly. Activations and the memory of CUDA, kernels and graphs are rough, high
estimates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.config.config import Config
from cluster.placement.plan.model_shape import BYTES, GIB, ModelShape
from rollout.environment import engine_arguments

RUNTIME_GIB = 1.0  # CUDA context and library workspaces of each process
GRAPHS_GIB = 1.0  # CUDA graphs of an engine
PREFILL_TOKENS = 2048  # vLLM's default on a GPU
PROBE_ROWS = 1024  # largest number of tokens of a probe prompt whose logits vLLM computes at a time


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
    bytes_per_number = BYTES[rollout.served_dtype]
    arguments = engine_arguments(rollout, config.model.path, config.learner.lora.r, (), config.loop.max_staleness)
    rank = arguments.get("max_lora_rank", 0)
    adapter = shape.num_adapter_parameters(rank, config.learner.lora.target_modules) * bytes_per_number
    rows = rollout.max_num_batched_tokens or PREFILL_TOKENS
    activations = rows * (2 * shape.intermediate + 4 * shape.hidden) * bytes_per_number
    # Three float32 copies: as computed, at temperature, as probabilities. Of a probe prompt, only as computed.
    probe = min(PROBE_ROWS, rollout.max_prompt_tokens) * bytes_per_number
    logits = max(3 * 4 * rollout.max_concurrent_requests, probe) * shape.vocabulary
    parts = {
        "weights": _weight_bytes(config, shape) / num_gpus / GIB,
        "adapters": arguments.get("max_loras", 0) * adapter / GIB,
        "activations": activations / GIB,
        "logits": logits / GIB,
        "runtime": RUNTIME_GIB + (0.0 if rollout.enforce_eager else GRAPHS_GIB),
    }
    sequence = arguments["max_model_len"] * shape.cache_bytes_per_token(cache_dtype(config), num_gpus) / GIB
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


def cache_dtype(config: Config) -> str:
    """Precision of the keys and values in an engine's cache, a key of BYTES."""
    return _precision(config.rollout.engine.get("kv_cache_dtype")) or config.rollout.served_dtype


def _precision(method: str | None) -> str | None:
    """Precision that a name of vLLM's for a dtype or a method of quantization states."""
    name = method or ""
    if "fp4" in name:
        return "4 bits"
    return "8 bits" if "fp8" in name or "int8" in name else None


def _weight_bytes(config: Config, shape: ModelShape) -> float:
    """Bytes of an engine's weights on all of its GPUs."""
    rollout = config.rollout
    weights = shape.weight_bytes(rollout.served_dtype, _precision(rollout.engine.get("quantization")))
    offloaded = float(rollout.engine.get("cpu_offload_gb") or 0) * GIB * rollout.tensor_parallel_size
    return max(0.0, weights - offloaded)
