"""Scaling policy of a pool: up while work waits, down while replicas idle. Pure; times in seconds of the caller's clock."""

import math
from collections import deque
from dataclasses import dataclass

from cluster.types import Bounds, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """Thresholds of scaling up and down.

    The thresholds must leave a gap: a pool that counted as idle right after it scaled up (to at most twice its replicas) or down
    would oscillate in size.
    """

    unit: str  # name of a unit of work in log lines: "group"

    # Scale up if all three conditions hold.
    scale_up_wait_seconds: float  # a unit of work has waited for at least this long
    settle_seconds: float  # the number of replicas has not changed for this long
    busy_share: float  # the busy share over settle_seconds is larger, 0 to 1
    growth_share: float  # number of added replicas, as a share of the ready ones

    # Scale down if all three conditions hold.
    window_seconds: float  # the number of replicas has not changed for this long
    idle_share: float  # the busy share over window_seconds is smaller, 0 to 1
    scale_down_wait_seconds: float = math.inf  # the longest wait in the window is shorter
    target_share: float  # busy share to expect after scaling down


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLoad:
    """Load of a pool at one moment."""

    num_ready: int
    num_wanted: int  # larger than num_ready while replicas start or lack resources
    wait_seconds: float  # longest wait of a queued unit; 0 for an empty queue
    recent_share: (
        float | None
    )  # busy share over settle_seconds, 0 to 1; None if the number of replicas changed in that time
    window_share: float | None  # busy share over window_seconds; None as above
    longest_wait_seconds: float  # in the window


def desired_replicas(load: PoolLoad, bounds: Bounds, policy: ScalingPolicy) -> tuple[int, str]:
    """Return the desired number of replicas, and the reason for a change in a few words."""
    number, reason = load.num_wanted, ""
    if load.wait_seconds >= policy.scale_up_wait_seconds:
        are_all_ready = load.num_ready >= load.num_wanted  # if not, an earlier increase is still under way
        if are_all_ready and load.recent_share is not None and load.recent_share > policy.busy_share:
            number = load.num_ready + math.ceil(load.num_ready * policy.growth_share)
            reason = f"a {policy.unit} has waited {load.wait_seconds:.1f} s"
    elif (
        load.window_share is not None
        and load.window_share < policy.idle_share
        and load.longest_wait_seconds < policy.scale_down_wait_seconds
    ):
        enough = math.ceil(load.num_ready * load.window_share / policy.target_share)
        number = min(load.num_wanted, max(enough, math.ceil(load.num_ready / 2)))
        reason = f"busy {load.window_share:.0%} of the last {policy.window_seconds:g} s"
    return bounds.clamp(number), reason


@dataclass(frozen=True, slots=True)
class _Sample:
    now: float
    usage: Usage
    wait_seconds: float


class LoadWindow:
    """Recent usage of a pool, all of it with the same number of replicas."""

    def __init__(self, policy: ScalingPolicy) -> None:
        self._policy = policy
        self._samples: deque[_Sample] = deque()

    def add(self, now: float, usage: Usage, wait_seconds: float) -> None:
        """Add a sample; a changed number of replicas starts a new window."""
        if self._samples and self._samples[-1].usage.num_replicas != usage.num_replicas:
            self._samples.clear()
        self._samples.append(_Sample(now, usage, wait_seconds))
        while len(self._samples) > 1 and self._samples[1].now <= now - self._policy.window_seconds:
            self._samples.popleft()

    def load(self, num_wanted: int) -> PoolLoad:
        """Return the load at the newest sample; call ``add`` first."""
        newest = self._samples[-1]
        return PoolLoad(
            num_ready=newest.usage.num_replicas,
            num_wanted=num_wanted,
            wait_seconds=newest.wait_seconds,
            recent_share=self._busy_share(self._policy.settle_seconds),
            window_share=self._busy_share(self._policy.window_seconds),
            longest_wait_seconds=max(sample.wait_seconds for sample in self._samples),
        )

    def _busy_share(self, seconds: float) -> float | None:
        """Busy share of the last seconds; None when the window is shorter."""
        newest = self._samples[-1]
        earlier = [sample for sample in self._samples if sample.now <= newest.now - seconds]
        if not earlier:
            return None
        oldest = earlier[-1].usage
        capacity = (newest.usage.capacity_seconds or 0.0) - (oldest.capacity_seconds or 0.0)
        return (newest.usage.busy_seconds - oldest.busy_seconds) / capacity if capacity > 0 else None
