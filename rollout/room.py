"""Whether the Ray cluster has room for the samplers, in numbers."""

import asyncio
import math
from collections.abc import Mapping, Sequence

import ray

from cluster.errors import ResourcesError
from rollout.settings import RolloutSettings

ROUNDING = 1e-6  # so that 0.1 + 0.2 fits into 0.3

SETTLE_SECONDS = 10.0
"""How long resources may take to show up as free after whoever held them is gone."""


async def require_room(settings: RolloutSettings) -> None:
    """Raise ResourcesError, with the arithmetic, where Ray would leave one of the least samplers waiting for ever."""
    least = settings.minimum
    num_fitting = num_that_fit(settings.bundle, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    if num_fitting < least:
        raise ResourcesError(
            f"{_wanted(settings)}; the cluster has {_amounts(ray.cluster_resources())} and holds {num_fitting}. "
            "Lower rollout.num_samplers (or min_samplers), cpus_per_sampler or gpus_per_sampler, or add machines"
        )
    for _ in range(int(SETTLE_SECONDS)):
        free = ray.available_resources()
        if all(free.get(name, 0.0) + ROUNDING >= least * amount for name, amount in settings.bundle.items()):
            return
        await asyncio.sleep(1)
    raise ResourcesError(
        f"{_wanted(settings)}; of the cluster's {_amounts(ray.cluster_resources())}, {_amounts(free)} are free. "
        "Wait for what else runs there, or lower rollout.num_samplers (or min_samplers), grader.num_graders or what the "
        "learner takes"
    )


def num_that_fit(bundle: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> int:
    """Return how many parts that each take a bundle of resources fit on nodes with so much, when each lies on one as a whole."""
    return sum(min(_times(name, amount, node.get(name, 0.0)) for name, amount in bundle.items()) for node in nodes)


def _times(name: str, amount: float, there: float) -> int:
    """How often an amount is there; a part of a GPU is taken of a single one."""
    if name != "GPU" or amount >= 1:
        return math.floor(there / amount + ROUNDING)
    whole = math.floor(there)
    return whole * math.floor(1 / amount + ROUNDING) + math.floor((there - whole) / amount + ROUNDING)


def _wanted(settings: RolloutSettings) -> str:
    n, cpus, gpus = settings.minimum, settings.bundle["CPU"], settings.bundle.get("GPU", 0.0)
    return f"{n} samplers x ({cpus:g} CPU + {gpus:g} GPU) need {n * cpus:g} CPU and {n * gpus:g} GPU"


def _amounts(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0.0):g} CPU and {resources.get('GPU', 0.0):g} GPU"
