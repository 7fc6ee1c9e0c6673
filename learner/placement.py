"""Placement of several ranks: on one machine if they fit there.

Each step exchanges gradients between the ranks and, with ``shard_base``, each pass the shards of every layer.
"""

import asyncio
import logging
import time

from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from cluster.actors.resources import Bundle, alive_nodes, num_fitting
from cluster.errors import ResourcesError

logger = logging.getLogger(__name__)

ONE_MACHINE_SECONDS = 60.0
"""Wait for one machine that is large enough for all ranks and in use, before the ranks are spread over several."""

POLL_SECONDS = 0.5


async def place_ranks(bundle: Bundle, num_ranks: int, *, deadline_seconds: float) -> PlacementGroup:
    """Reserve ``num_ranks`` bundles in a Ray placement group, one for each rank.

    On one machine if any is large enough and its resources become free in ONE_MACHINE_SECONDS, else on as few machines as
    possible. Raises ResourcesError if the resources are not free at the deadline.
    """
    bundles = [dict(bundle)] * num_ranks
    if any(num_fitting(bundle, [node]) >= num_ranks for node in alive_nodes()):
        group = await _granted(bundles, "STRICT_PACK", min(ONE_MACHINE_SECONDS, deadline_seconds))
        if group is not None:
            return group
    group = await _granted(bundles, "PACK", deadline_seconds)
    if group is None:
        raise ResourcesError(
            f"learner: the resources of {num_ranks} ranks are not free on any machines after {deadline_seconds:.0f} s; wait for "
            "what else runs there, or lower learner.num_ranks"
        )
    num_machines = len(set(placement_group_table(group)["bundles_to_node_id"].values()))
    if num_machines > 1:
        logger.warning(
            "the learner's %d ranks are on %d machines, because no machine has free resources for all: each step waits for the "
            "network between them",
            num_ranks,
            num_machines,
        )
    return group


async def _granted(bundles: list[dict[str, float]], strategy: str, seconds: float) -> PlacementGroup | None:
    """Create a placement group and wait for its resources; None, and no group, if they are not free in time."""
    group = placement_group(bundles, strategy=strategy)
    deadline = time.monotonic() + seconds
    is_granted = False
    try:
        while not is_granted and time.monotonic() < deadline:
            is_granted = await asyncio.to_thread(group.wait, POLL_SECONDS)
    finally:
        if not is_granted:
            remove_placement_group(group)
    return group if is_granted else None
