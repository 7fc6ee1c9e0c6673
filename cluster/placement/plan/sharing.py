"""The parts that share a GPU, and the KV cache of each sampler among them."""

import math

from cluster.actors.resources import ROUNDING
from cluster.config.config import Config
from cluster.placement.plan.memory import cache_dtype, sampler_memory
from cluster.placement.plan.model_shape import GIB, ModelShape

BLOCK_TOKENS = 64  # largest block of vLLM's KV cache on a GPU; a completion takes whole blocks


def samplers_per_gpu(config: Config, *, next_to_learner: bool) -> int:
    """Largest number of samplers that Ray may place on one GPU, alone or next to the learner."""
    share = config.rollout.gpus_per_sampler
    if not share:
        return 0
    free = 1.0 - (config.learner.gpus if next_to_learner else 0.0)
    return min(config.rollout.maximum, int(free / share + ROUNDING))


def kv_cache_memory_bytes(config: Config, shape: ModelShape, gpu_gib: float) -> int | None:
    """Bytes of KV cache for an engine that shares a GPU of ``gpu_gib`` with other parts of the run.

    None for an engine that has its GPUs alone or computes on the CPU. An engine that shares a GPU must not size its cache by the
    free memory: the other parts allocate and release memory while it measures. The cache gets what the estimates of its other
    parts leave of ``rollout.gpu_memory_utilization``, and at least one completion of full length.
    """
    if not 0 < config.rollout.gpus_per_sampler < 1:
        return None
    memory = sampler_memory(config, shape, gpu_gib)
    max_tokens = config.rollout.max_prompt_tokens + config.rollout.max_completion_tokens
    # vLLM keeps one block empty.
    blocks = (math.ceil(max_tokens / BLOCK_TOKENS) + 1) * BLOCK_TOKENS
    least = int(blocks * shape.cache_bytes_per_token(cache_dtype(config)))
    return max(least, int(memory.cache * GIB))


def with_kv_cache(config: Config, shape: ModelShape, gpu_gib: float) -> Config:
    """Fill in an unset ``rollout.kv_cache_memory_bytes`` of a placed configuration whose samplers share GPUs."""
    rollout = config.rollout
    size = kv_cache_memory_bytes(config, shape, gpu_gib)
    if size is None or rollout.kv_cache_memory_bytes is not None:
        return config
    return config.model_copy(update={"rollout": rollout.model_copy(update={"kv_cache_memory_bytes": size})})
