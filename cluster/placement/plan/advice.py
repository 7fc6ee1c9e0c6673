"""Advice on the memory and the pace of a planned run."""

import math

from cluster.config.config import Config
from cluster.console import count
from cluster.placement.plan.gpu_plan import GpuPlan
from cluster.placement.plan.pace import Pace

FEW_SEQUENCES = 0.5  # of max_concurrent_requests; a smaller KV cache limits an engine's throughput
WORTHWHILE = 0.8  # of the seconds of a step; a smaller gain is no reason to sample under older policies
FULL_SHARE = 0.5  # of max_concurrent_requests; with fewer completions an engine reads its weights for few tokens
BUSY_SHARE = 0.5  # of a step; fewer replicas of a part would do if it is busy for less


def memory_advice(config: Config, plan: GpuPlan) -> list[str]:
    """Lines on memory that is too small or unused."""
    advice = []
    wanted = config.rollout.max_concurrent_requests
    if plan.sampler is not None and 1 <= plan.sampler.num_sequences < FEW_SEQUENCES * wanted:
        advice.append(
            f"The KV cache holds {count(int(plan.sampler.num_sequences), 'completion')} of full length, not the {wanted} of "
            "rollout.max_concurrent_requests: raise rollout.gpu_memory_utilization, or lower the latter."
        )
    if plan.learner is not None and plan.learner.total < plan.learner.limit / 3:
        times = int((plan.learner.limit - 2) / plan.learner.total)
        advice.append(
            f"The learner takes {plan.learner.total:.0f} of {plan.learner.limit:.0f} GiB: learner.micro_batch_tokens could be "
            f"{times}x as large, with fewer passes."
        )
    return advice


def pace_advice(config: Config, plan: GpuPlan) -> list[str]:
    """Lines on the bottleneck of a step and on parts that are too many."""
    speed, overlapping = plan.pace, plan.overlapping
    if speed is None:
        return [f"No pace is estimated: {_no_pace(plan)}."]
    advice = [_bottleneck(config, speed)]
    # With more samplers fewer completions run on each, which is hardly faster.
    if speed.overlaps and speed.sampling < BUSY_SHARE * speed.step and config.rollout.num_samplers > 1:
        fewer = math.ceil(config.rollout.num_samplers * speed.sampling / speed.step / BUSY_SHARE)
        advice.append(f"{count(fewer, 'sampler')} would do, with more concurrent completions on each.")
    if overlapping is not None and overlapping.step < WORTHWHILE * speed.step:
        advice.append(
            f"Samplers and learner wait for one another: with loop.max_staleness=1 a step takes about {overlapping.step:.1f} s."
        )
    enough = math.ceil(config.grader.num_graders * speed.grading / speed.step / BUSY_SHARE)
    if enough < config.grader.num_graders:
        advice.append(f"{count(enough, 'grader')} would do.")
    return advice


def _no_pace(plan: GpuPlan) -> str:
    """The reason why a plan has no pace."""
    if plan.sampler is None or plan.learner is None:
        return f"the {'samplers' if plan.sampler is None else 'learner'} would run on the CPU"
    if plan.sampler.num_sequences < 1:
        return "a sampler does not fit"
    return "the data sheet of these GPUs is not known here"


def _bottleneck(config: Config, speed: Pace) -> str:
    """A line on the part that limits a step."""
    seconds = f"sampling takes {speed.sampling:.1f} s of a step, learning {speed.learning:.1f} s"
    if speed.bottleneck == "grading":
        return f"The graders may be the bottleneck: up to {speed.grading:.1f} s of a step. Add graders and machines for them."
    if speed.bottleneck == "the driver":
        return (
            f"The driver is the bottleneck: its process works for {speed.driving:.1f} s of a step. It keeps up with "
            f"{count(speed.fed_samplers, 'sampler')} of the {config.rollout.num_samplers}; more would wait."
        )
    if speed.shared_gpu and not speed.overlaps:
        return f"Samplers and learner take turns on a GPU: {seconds}."
    if speed.shared_gpu == speed.step:
        return f"The GPU that samplers and learner share is the bottleneck: {seconds}. Another GPU would shorten it."
    if speed.bottleneck == "learning":
        ranks = math.ceil(config.learner.num_ranks * speed.learning / max(speed.sampling, speed.grading, speed.driving))
        return f"The learner is the bottleneck: {seconds}. Add ranks before samplers: learner.num_ranks={ranks} would keep pace."
    if speed.num_running < FULL_SHARE * config.rollout.max_concurrent_requests:
        return (
            f"The samplers are the bottleneck: {seconds}. Each samples {count(speed.num_running, 'completion')} at a time, and "
            "more samplers would have fewer; raise loop.groups_per_step or loop.max_staleness, or take fewer ranks of the "
            "learner."
        )
    balanced = math.ceil(
        config.rollout.num_samplers * speed.sampling / max(speed.learning, speed.grading, speed.driving)
    )
    return f"The samplers are the bottleneck: {seconds}. {count(balanced, 'sampler')} would keep pace."
