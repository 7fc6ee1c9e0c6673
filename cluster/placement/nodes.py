"""Calls of one function on many nodes of a Ray cluster."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from cluster.errors import ResourcesError

NODE_SECONDS = 300.0
"""Deadline for a node to receive the working directory, start a process and answer; it may build the grader's programs."""

Answer = TypeVar("Answer")


def ask_nodes(nodes: Sequence[Mapping[str, Any]], function: Callable[..., Answer], *arguments: Any) -> list[Answer]:
    """Call a function on each of these nodes of ``ray.nodes()``, without reserving resources; returns the answers in their order.

    Raises ResourcesError if a node does not answer within NODE_SECONDS.
    """
    if not nodes:
        return []
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    call = ray.remote(num_cpus=0, max_retries=0)(function)
    calls = [
        call.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)).remote(
            *arguments
        )
        for node in nodes
    ]
    try:
        return list(ray.get(calls, timeout=NODE_SECONDS))
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ResourcesError(f"a node of the cluster does not answer within {NODE_SECONDS:g} s: {reason}") from error
