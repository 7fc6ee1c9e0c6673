"""Whether the Ray cluster has room for the learner, before an actor waits for it in silence."""

import asyncio
import time

import ray

from cluster.types import ResourcesError
from learner.settings import LearnerSettings

PLACEMENT_SECONDS = 60.0
"""How long room may take to be free: whoever held it is going, or a machine is coming back."""


async def wait_for_room(settings: LearnerSettings, *, hint: str) -> None:
    """Return once a machine is large enough and as much is free; ResourcesError, which ends in ``hint``, if that takes long."""
    wanted = {name: amount for name, amount in (("CPU", settings.cpus), ("GPU", settings.gpus)) if amount > 0}
    began = time.monotonic()
    while True:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        free = ray.available_resources()
        one_is_large_enough = any(_holds(machine, wanted) for machine in machines)
        if one_is_large_enough and _holds(free, wanted):
            return
        if time.monotonic() - began > PLACEMENT_SECONDS:
            break
        await asyncio.sleep(0.5)
    needs = " + ".join(f"{amount:g} {name}" for name, amount in wanted.items())
    there = " + ".join(f"{free.get(name, 0.0):g} {name}" for name in wanted)
    short = f"only {there} are free in the cluster" if one_is_large_enough else "no machine of the cluster has as much"
    raise ResourcesError(
        f"the learner needs {needs} on one machine, and for {PLACEMENT_SECONDS:g} s {short}; "
        f"wait for what else runs there, or lower learner.cpus or learner.gpus; {hint}"
    )


def _holds(resources: dict[str, float], wanted: dict[str, float]) -> bool:
    return all(resources.get(name, 0.0) + 1e-6 >= amount for name, amount in wanted.items())
