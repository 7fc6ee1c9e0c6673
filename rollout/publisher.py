"""Brings policies to samplers: a new one to all that serve, and to one that starts all that may still be sampled from."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import ray
from ray.actor import ActorHandle

from cluster.errors import CaravanError, DeadlineExceeded, SamplerError
from cluster.types import PolicyVersion, WeightSync
from rollout.policies import LivePolicies
from rollout.replica import Station
from rollout.settings import RolloutSettings
from rollout.weight_sync_modes import weight_sync_mode

Dismiss = Callable[[Station, ActorHandle | None, CaravanError], None]
"""Takes a station out of service whose actor, the one given, failed."""


class Publisher:
    """The live policies of a pool, and how they reach its samplers."""

    def __init__(self, settings: RolloutSettings) -> None:
        self._settings = settings
        self.policies: LivePolicies[ray.ObjectRef] = LivePolicies()
        self.lock = asyncio.Lock()  # whoever is given work while it is held misses no policy
        self.swaps: list[WeightSync] = []  # to the newest policy

    async def publish(self, policy: PolicyVersion, serving: Callable[[], Iterable[Station]], dismiss: Dismiss) -> None:
        """Load a policy on every sampler that serves, and dismiss those that fail or cannot prove it.

        Raises ModelError where vLLM refuses the adapter, SamplerError for one that is out of order, ResourcesError.
        """
        async with self.lock:
            if policy.number <= self.policies.current:
                raise SamplerError(f"policy {policy.number} comes after policy {self.policies.current} was published")
            # Once into the object store, from where every node fetches it; as an argument it would be copied per call.
            handle = await asyncio.to_thread(ray.put, policy)
            live = self.policies.add(policy.number, handle)
            self.swaps = []
            swaps = (self._swap(station, handle, live, dismiss) for station in serving())
            refusals = [error for error in await asyncio.gather(*swaps, return_exceptions=True) if error is not None]
            if refusals:
                self.policies.discard(policy.number)
                raise refusals[0]

    async def catch_up(self, station: Station, proved: dict[int, WeightSync]) -> str | None:
        """Bring a fresh engine to the live policies that it has not proved; return how it failed at one, None where it did not.

        To be called once more with the lock held, until it is given work. Raises what Station.load raises.
        """
        handles = self.policies.handles()
        live = frozenset(version for version, _ in handles)
        for version, handle in weight_sync_mode(self._settings).policies_to_load(handles):
            if version in proved:
                continue
            swap, verification = await station.load(handle, live, self._settings.publish_deadline_seconds)
            if verification.failure is not None:
                return verification.failure
            proved[version] = swap
        return None

    def note(self, proved: Mapping[int, WeightSync]) -> None:
        """Count a sampler that caught up among those that took the newest policy; to be called with the lock held."""
        if self.policies.newest in proved:
            self.swaps.append(proved[self.policies.newest])

    async def _swap(self, station: Station, handle: ray.ObjectRef, live: frozenset[int], dismiss: Dismiss) -> None:
        actor = station.actor
        if actor is None:  # it died since it was asked who serves
            return
        try:
            swap, verification = await station.load(handle, live, self._settings.publish_deadline_seconds)
        except (SamplerError, DeadlineExceeded) as error:
            dismiss(station, actor, error)
            return
        if verification.failure is None:
            station.num_unproved = 0
            self.swaps.append(swap)
        else:
            station.num_unproved += 1
            dismiss(station, actor, SamplerError(f"it {verification.failure}"))
