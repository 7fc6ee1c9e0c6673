"""How long sampling, grading and learning take in one step, estimated from what the GPUs can do: which of them is waited for.

Good for comparing parts and settings, not for promising hours: sampling is bound by the GPU's memory (the weights and every
running completion's cache are read for each token), learning by its arithmetic.
"""

from dataclasses import dataclass

from cluster.config.config import Config
from cluster.placement.plan.machines import Gpu
from cluster.placement.plan.memory import SamplerMemory
from cluster.placement.plan.model_shape import BYTES, ModelShape

SHARE_OF_BANDWIDTH = 0.6  # that decoding reaches of the data sheet
SHARE_OF_TFLOPS = 0.35  # that passes over many tokens reach
SECONDS_PER_PASS = 0.004  # of an engine besides the GPU's work: scheduling, sampling, handing over
GRADING_SECONDS = 0.02  # CPU seconds per completion, as three OCaml processes take; most take less
MEAN_SHARE = 0.5  # of the longest prompt and completion, that the mean one is taken to have


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of one step, by part, each for itself."""

    sampling: float
    grading: float
    learning: float
    num_running: int  # completions per engine at a time
    overlaps: bool  # sampling goes on while the learner works

    @property
    def step(self) -> float:
        """Seconds of the whole step; grading goes on while completions are sampled."""
        rollouts = max(self.sampling, self.grading)
        return max(rollouts, self.learning) if self.overlaps else rollouts + self.learning

    @property
    def bottleneck(self) -> str:
        """The part that takes longest."""
        parts = {"sampling": self.sampling, "grading": self.grading, "learning": self.learning}
        return max(parts, key=lambda name: parts[name])


def pace(config: Config, shape: ModelShape, gpu: Gpu, memory: SamplerMemory, *, grading_cpus: float) -> Pace | None:
    """The pace on GPUs of one kind; None where it is not known what they can do."""
    if gpu.tflops is None or gpu.tb_per_second is None:
        return None
    loop, rollout, learner = config.loop, config.rollout, config.learner
    num_completions = loop.groups_per_step * rollout.group_size
    prompt, completion = MEAN_SHARE * rollout.max_prompt_tokens, MEAN_SHARE * rollout.max_completion_tokens
    at_a_time = num_completions * (1 + loop.max_staleness) * loop.oversampling / rollout.num_samplers
    num_running = max(1, int(min(rollout.max_concurrent_requests, memory.num_sequences, at_a_time)))

    flops_per_second = SHARE_OF_TFLOPS * gpu.tflops * 1e12
    read = shape.num_parameters * BYTES[rollout.served_dtype]
    read += int(num_running * (prompt + completion / 2) * shape.cache_bytes_per_token(rollout.served_dtype))
    share = rollout.tensor_parallel_size * min(1.0, rollout.gpus_per_sampler)  # what GPUs tell one another is left out
    of_a_pass = read / (SHARE_OF_BANDWIDTH * gpu.tb_per_second * 1e12) / share + SECONDS_PER_PASS
    of_a_pass += 2 * shape.num_parameters * num_running / flops_per_second / share
    prefill = loop.groups_per_step * prompt * 2 * shape.num_parameters / flops_per_second / share
    sampling = (num_completions * completion / num_running * of_a_pass + prefill) / rollout.num_samplers

    # Forward, backward through frozen weights, once more forward where activations were not kept, and to the reference.
    passes = 2 + int(learner.gradient_checkpointing) + int(learner.kl_coefficient > 0)
    positions = num_completions * (prompt + completion)
    work = 2 * passes * shape.num_parameters * positions * learner.num_iterations
    learning = work / flops_per_second / min(1.0, learner.gpus) / learner.num_ranks

    return Pace(
        sampling=sampling,
        grading=num_completions * GRADING_SECONDS / max(1e-9, min(grading_cpus, config.grader.num_graders)),
        learning=learning,
        num_running=num_running,
        overlaps=loop.max_staleness > 0,
    )
