"""Resources of the Ray cluster: fit of bundles on its nodes, and waiting for free ones."""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence

import ray

from cluster.errors import ResourcesError

Bundle = Mapping[str, float]
"""Resources of one actor, all on one node, by Ray's names ("CPU", "GPU")."""

ROUNDING = 1e-6  # tolerance of sums: 0.1 + 0.2 fits into 0.3

SETTLE_SECONDS = 10.0
"""Time after which the resources of an ended actor are free in Ray's cluster state."""


def alive_nodes() -> list[dict[str, float]]:
    """Return the total resources of each node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def num_fitting(bundle: Bundle, nodes: Sequence[Mapping[str, float]]) -> int:
    """Return the number of bundles that fit on nodes with these resources."""
    return sum(
        min(_num_on_node(name, amount, node.get(name, 0.0)) for name, amount in bundle.items()) for node in nodes
    )


async def wait_for_resources(
    name: str, bundle: Bundle, number: int, *, free_seconds: float, join_seconds: float, advice: str
) -> None:
    """Wait until ``number`` bundles fit on the nodes and their sum is free.

    Args:
        name: name of the actors, for the error message.
        bundle: resources of each actor. An empty bundle is not waited for.
        number: number of actors.
        free_seconds: deadline if the nodes are large enough but in use.
        join_seconds: deadline if the nodes are too few or too small; more may join.
        advice: end of the error message.

    Raises ResourcesError with the numbers.
    """
    if not bundle:
        return
    began = time.monotonic()
    while True:
        nodes, free = alive_nodes(), ray.available_resources()
        num_fit = num_fitting(bundle, nodes)
        is_free = all(free.get(key, 0.0) + ROUNDING >= number * amount for key, amount in bundle.items())
        if num_fit >= number and is_free:
            return
        waited = time.monotonic() - began
        if waited >= (free_seconds if num_fit >= number else join_seconds):
            break
        await asyncio.sleep(0.5)
    total = {key: sum(node.get(key, 0.0) for node in nodes) for key in bundle}
    cause = (
        f"of the cluster's {_amounts(total)}, {_amounts({key: free.get(key, 0.0) for key in bundle})} are free"
        if num_fit >= number
        else f"the cluster's {len(nodes)} nodes have {_amounts(total)}, enough for {num_fit}"
    )
    raise ResourcesError(
        f"{name}: {number} x ({_amounts(bundle)}) needed, each on one node; {cause} after {waited:.0f} s. {advice}"
    )


def _num_on_node(name: str, amount: float, total: float) -> int:
    if name != "GPU" or amount >= 1:
        return math.floor(total / amount + ROUNDING)
    # A fraction of a GPU is taken from a single one.
    whole = math.floor(total)
    return whole * math.floor(1 / amount + ROUNDING) + math.floor((total - whole) / amount + ROUNDING)


def _amounts(resources: Mapping[str, float]) -> str:
    return " + ".join(f"{amount:g} {name}" for name, amount in resources.items())
