"""A session: the event loop of a command, its sampler and grader pools, and the adapter and plan that they start with."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cluster.config.config import Config
from cluster.config.model_path import model_path
from cluster.console import View, count
from cluster.errors import CaravanError
from cluster.placement.scale_requests import ScalableGraderPool, ScalableSamplerPool
from cluster.run.interruption import INTERRUPTED
from cluster.types import PolicyVersion
from learner.plan import LearnerPlan


def run_to_end(work: Callable[[View], Coroutine[Any, Any, int]]) -> int:
    """Run a command in an event loop and return its exit code. Raises a CaravanError without the exception groups around it."""
    view = View()
    try:
        return asyncio.run(work(view))
    except asyncio.CancelledError:
        view.log("interrupted")
        return INTERRUPTED
    except BaseExceptionGroup as group:
        errors = group.subgroup(CaravanError)
        if errors is None:
            raise
        raise first_leaf(errors) from None


def first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception that is not a group."""
    error = group.exceptions[0]
    return first_leaf(error) if isinstance(error, BaseExceptionGroup) else error


@asynccontextmanager
async def samplers_and_graders(
    config: Config,
    view: View,
    *,
    lora_rank: int,
    lora_targets: Sequence[str],
    special_tokens: tuple[str, ...],
    policy: PolicyVersion | None = None,
) -> AsyncIterator[tuple[ScalableSamplerPool, ScalableGraderPool]]:
    """Start both pools at the same time; both are stopped at the end of the block, also after an error."""
    from cluster.placement.reservations import Reservations
    from grader.pool import RayGraderPool
    from rollout.pool import RaySamplerPool

    reservations = Reservations(config, view.log)
    samplers = RaySamplerPool(
        config.rollout,
        model=model_path(config),
        lora_rank=lora_rank,
        lora_targets=lora_targets,
        max_staleness=config.loop.max_staleness,
        learner_is_quantized=config.learner.quantization is not None,
        reservation=reservations.samplers,
        log=view.log,
    )
    graders = RayGraderPool(
        config.grader, reservation=reservations.graders, log=view.log, special_tokens=special_tokens
    )
    try:
        parts = f"{count(config.rollout.num_samplers, 'sampler')} and {count(config.grader.num_graders, 'grader')}"
        with view.timed(f"starting {parts}"):
            _, sandbox = await asyncio.gather(samplers.start(policy), graders.start())
        view.log(sandbox)
        yield samplers, graders
    finally:
        await asyncio.gather(samplers.close(), graders.close())


def learner_plan(
    config: Config,
    *,
    max_steps: int,
    probe_ids: tuple[tuple[int, ...], ...],
    checkpoints_dir: Path,
    initial_adapter: Mapping[str, bytes] | None = None,
) -> LearnerPlan:
    """The run's settings that the learner needs; ``probe_ids`` are tokens of the probe prompts, scored under every policy."""
    return LearnerPlan(
        model=model_path(config),
        temperature=config.rollout.temperature,
        max_completion_tokens=config.rollout.max_completion_tokens,
        max_staleness=config.loop.max_staleness,
        max_steps=max_steps,
        seed=config.run.seed,
        checkpoints_dir=checkpoints_dir.resolve(),
        probe_ids=probe_ids,
        served_dtype=config.rollout.served_dtype,
        initial_adapter=initial_adapter,
    )
