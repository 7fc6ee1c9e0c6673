"""Whether the Ray cluster has room for the learner, before its actors wait for it in silence."""

import asyncio
import sys
import time

import ray

from cluster.errors import ResourcesError
from learner.settings import LearnerSettings

PLACEMENT_SECONDS = 60.0
"""How long room may take to be free at the start of a run: whoever held it is going."""


async def wait_for_room(settings: LearnerSettings, *, hint: str, seconds: float) -> None:
    """Return once machines have room for all ranks and as much is free; ResourcesError, with ``hint``, after so many seconds."""
    wanted = {name: amount for name, amount in (("CPU", settings.cpus), ("GPU", settings.gpus)) if amount > 0}
    num_ranks = settings.num_ranks
    of_all = {name: num_ranks * amount for name, amount in wanted.items()}
    began = time.monotonic()
    while True:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        free = ray.available_resources()
        fits = sum(min(num_ranks, _how_often(machine, wanted)) for machine in machines) >= num_ranks
        if fits and _how_often(free, of_all):
            return
        if time.monotonic() - began > seconds:
            break
        await asyncio.sleep(0.5)
    needs = " + ".join(f"{amount:g} {name}" for name, amount in wanted.items())
    there = " + ".join(f"{free.get(name, 0.0):g} {name}" for name in wanted)
    if fits:
        short = f"only {there} are free in the cluster"
    else:
        short = (
            "no machine of the cluster has as much" if num_ranks == 1 else "the cluster's machines have no room for all"
        )
    many, fewer = (f" for each of {num_ranks} ranks", ", learner.num_ranks") if num_ranks > 1 else ("", "")
    raise ResourcesError(
        f"the learner needs {needs} on one machine{many}, and for {seconds:g} s {short}; "
        f"wait for what else runs there, or lower learner.cpus{fewer} or learner.gpus; {hint}"
    )


def _how_often(resources: dict[str, float], wanted: dict[str, float]) -> int:
    """How many times there is as much as is wanted; often, where that is nothing."""
    return min(
        (int((resources.get(name, 0.0) + 1e-6) / amount) for name, amount in wanted.items()), default=sys.maxsize
    )
