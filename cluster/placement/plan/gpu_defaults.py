"""Settings that follow from the memory of the GPUs, where the configuration leaves them unset."""

from cluster.config.config import Config
from cluster.placement.plan.learner_memory import learner_memory
from cluster.placement.plan.model_shape import ModelShape

LARGE_GPU_GIB = 38.0  # usable memory of a GPU of 40 GB, and a margin
PREFILL_TOKENS = {False: 2048, True: 8192}  # in one pass, by the GPU's size; vLLM's default on a GPU is 2,048
MICRO_BATCH_TOKENS = (16384, 8192, 4096)  # of the learner; below them, its default
USED_SHARE = 0.75  # of the learner's memory, by the estimate


def with_prefill(config: Config, gpu_gib: float) -> Config:
    """Fill in ``rollout.max_num_batched_tokens`` for samplers on GPUs of ``gpu_gib``."""
    rollout = config.rollout
    if not rollout.gpus_per_sampler or "max_num_batched_tokens" in rollout.model_fields_set:
        return config
    # vLLM refuses fewer tokens than requests.
    size = max(PREFILL_TOKENS[gpu_gib >= LARGE_GPU_GIB], rollout.max_concurrent_requests)
    return config.model_copy(update={"rollout": rollout.model_copy(update={"max_num_batched_tokens": size})})


def with_micro_batch(config: Config, shape: ModelShape, limit: float) -> Config:
    """Fill in ``learner.micro_batch_tokens``: the largest size whose estimate fits well into ``limit`` GiB."""
    learner = config.learner
    if not learner.gpus or "micro_batch_tokens" in learner.model_fields_set:
        return config
    sizes = (*MICRO_BATCH_TOKENS, learner.micro_batch_tokens)
    candidates = [
        config.model_copy(update={"learner": learner.model_copy(update={"micro_batch_tokens": size})}) for size in sizes
    ]
    fitting = (
        candidate for candidate in candidates if learner_memory(candidate, shape, limit).total <= USED_SHARE * limit
    )
    return next(fitting, candidates[-1])


def with_kept_sizes(config: Config, placed: Config) -> Config:
    """Copy the sizes of passes from ``placed``: a run keeps them in its config.yaml.

    Sizes stay unset if the memory that they depend on is unknown.
    """
    rollout, learner = placed.rollout, placed.learner
    sizes = {"max_num_batched_tokens": rollout.max_num_batched_tokens} if rollout.max_num_batched_tokens else {}
    is_known = not learner.gpus or "micro_batch_tokens" in learner.model_fields_set
    batch = {"micro_batch_tokens": learner.micro_batch_tokens} if is_known else {}
    return config.model_copy(
        update={
            "rollout": config.rollout.model_copy(update=sizes),
            "learner": config.learner.model_copy(update=batch),
        }
    )
