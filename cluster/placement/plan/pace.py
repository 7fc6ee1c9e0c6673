"""Estimates of the seconds of sampling, grading, driving and learning in one step, and of the bottleneck among them.

They compare parts and settings and do not predict hours. Sampling is bound by memory bandwidth (each token reads the weights and
the cache of every running completion), learning by arithmetic.
"""

from dataclasses import dataclass

from cluster.config.config import Config
from cluster.placement.plan.machines import Gpu
from cluster.placement.plan.memory import SamplerMemory, cache_dtype
from cluster.placement.plan.model_shape import BYTES, ModelShape

SHARE_OF_BANDWIDTH = 0.6  # share of the data sheet's bandwidth that decoding reaches
SHARE_OF_TFLOPS = 0.35  # share of the data sheet's rate that an engine's passes over many tokens reach
LEARNING_SHARE = 0.25  # the same of the learner: small adapters, dropout, and layers that are not fused
SECONDS_PER_PASS = 0.004  # of an engine outside the GPU: scheduling, sampling, output
GRADING_SECONDS = 0.02  # CPU seconds per completion, a high estimate
# CPU seconds of the driver's process per completion and per token of it, on one core (`make bench-driver`, docs/rollouts.md).
DRIVING_SECONDS, DRIVING_SECONDS_PER_TOKEN = 2.0e-3, 0.7e-6
MEAN_SHARE = 0.5  # assumed mean length of prompts and completions, as a share of the longest


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedGpu:
    """Parts on the fullest GPU. A part computes at the GPU's whole speed while the others do not compute."""

    samplers: int
    with_learner: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of one step by part, each measured alone."""

    sampling: float
    grading: float
    learning: float
    driving: float  # CPU time of the driver's process
    fed_samplers: int  # samplers that one driver keeps busy
    num_running: int  # concurrent completions per engine
    overlaps: bool  # sampling continues while the learner works
    shared_gpu: float = 0.0  # work for a GPU that samplers share with the learner

    @property
    def step(self) -> float:
        """Seconds of the whole step; grading and driving overlap with sampling."""
        rollouts = max(self.sampling, self.grading, self.driving)
        return max(rollouts, self.learning, self.shared_gpu) if self.overlaps else rollouts + self.learning

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        parts = {
            "sampling": self.sampling,
            "grading": self.grading,
            "learning": self.learning,
            "the driver": self.driving,
        }
        if self.overlaps and self.shared_gpu:
            parts["the shared GPU"] = self.shared_gpu
        return max(parts, key=lambda name: parts[name])


def pace(
    config: Config, shape: ModelShape, gpu: Gpu, memory: SamplerMemory, shared: SharedGpu, *, grading_cpus: float
) -> Pace | None:
    """The pace on GPUs of one kind; None for a GPU without a data sheet here.

    Samplers on one GPU divide its speed among them. The learner does not divide it with them: without staleness they take turns,
    and with staleness the work of all adds up on their GPU.
    """
    if gpu.tflops is None or gpu.tb_per_second is None:
        return None
    loop, rollout, learner = config.loop, config.rollout, config.learner
    num_completions = loop.groups_per_step * rollout.group_size
    prompt, completion = MEAN_SHARE * rollout.max_prompt_tokens, MEAN_SHARE * rollout.max_completion_tokens
    num_concurrent = num_completions * (1 + loop.max_staleness) * loop.oversampling / rollout.num_samplers
    num_running = max(1, int(min(rollout.max_concurrent_requests, memory.num_sequences, num_concurrent)))

    flops_per_second = SHARE_OF_TFLOPS * gpu.tflops * 1e12
    read = shape.num_parameters * BYTES[rollout.served_dtype]
    read += int(num_running * (prompt + completion / 2) * shape.cache_bytes_per_token(cache_dtype(config)))
    share = rollout.tensor_parallel_size / max(1, shared.samplers)  # without communication between GPUs
    busy = read / (SHARE_OF_BANDWIDTH * gpu.tb_per_second * 1e12) / share
    busy += 2 * shape.num_parameters * num_running / flops_per_second / share
    prefill = loop.groups_per_step * prompt * 2 * shape.num_parameters / flops_per_second / share
    num_passes = num_completions * completion / num_running
    sampling, on_gpu = (
        (num_passes * seconds + prefill) / rollout.num_samplers for seconds in (busy + SECONDS_PER_PASS, busy)
    )

    # Forward, backward through frozen weights, forward again with checkpointing, forward of the reference.
    passes = 2 + int(learner.gradient_checkpointing) + int(learner.kl_coefficient > 0)
    num_prompts = num_completions if learner.gradient_checkpointing or learner.shard_base else loop.groups_per_step
    num_tokens = num_prompts * prompt + num_completions * completion
    work = 2 * passes * shape.num_parameters * num_tokens * learner.num_iterations
    learning = work / (LEARNING_SHARE * gpu.tflops * 1e12) / learner.num_ranks

    driving = num_completions * (DRIVING_SECONDS + DRIVING_SECONDS_PER_TOKEN * completion)
    return Pace(
        driving=driving,
        fed_samplers=int(rollout.num_samplers * sampling / driving),
        sampling=sampling,
        grading=num_completions * GRADING_SECONDS / max(1e-9, min(grading_cpus, config.grader.num_graders)),
        learning=learning,
        num_running=num_running,
        overlaps=loop.max_staleness > 0,
        shared_gpu=on_gpu + learning if shared.with_learner else 0.0,
    )
