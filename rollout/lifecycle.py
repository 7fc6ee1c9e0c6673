"""Lifecycle of samplers: a sampler gets work once every live policy is verified on it, and then loads each new policy."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import ray

from cluster.actors.dispatcher import Dispatcher
from cluster.actors.lifecycle import Lifecycle, ReplicaState
from cluster.errors import CaravanError, DeadlineExceeded, ModelError, SamplerError
from cluster.types import PolicyVersion, WeightSync
from rollout.policies import LivePolicies
from rollout.replica import SamplerPlan, SamplerReplica
from rollout.weight_sync import Verification, tolerance
from rollout.weight_sync_modes import weight_sync_mode

logger = logging.getLogger(__name__)

MAX_RERUNS = 2
"""Reruns of a group whose sampler died; the last one is exclusive, so that no other group can be the cause."""

MAX_CRASHES = 2 * (MAX_RERUNS + 1)
"""Crashes of one replica without output before the pool fails: as many as two deadly groups can cause."""

MAX_FAILED_STARTS = 3
"""Failed starts in a row before the pool fails, if no other sampler is ready."""


class SamplerLifecycle(Lifecycle[SamplerReplica]):
    """The samplers of a pool and their policies. Lives in one event loop, after ``ray.init``."""

    def __init__(self, plan: SamplerPlan, dispatcher: Dispatcher[SamplerReplica], log: Callable[[str], None]) -> None:
        """``log`` takes a log line."""
        super().__init__("sampler", dispatcher, lambda name: SamplerReplica(name=name, plan=plan))
        self._settings = plan.settings
        self._mode = weight_sync_mode(plan.settings)
        self._log = log
        self._publishing = asyncio.Lock()
        self.policies: LivePolicies[ray.ObjectRef] = LivePolicies()
        self.weight_syncs: list[WeightSync] = []  # to the newest policy
        self.tolerance = tolerance(plan.settings)  # nats per token, of all later policies

    def serving(self) -> Sequence[SamplerReplica]:
        """Return the samplers that have to load a new policy.

        Draining samplers are included if a new policy replaces the policy of running completions.
        """
        draining = (replica for replica in self.draining if replica.state is ReplicaState.DRAINING and replica.load)
        return [
            *(replica for replica in self.replicas if replica.state is ReplicaState.READY),
            *(draining if self._mode.updates_running else ()),
        ]

    async def publish(self, policy: PolicyVersion) -> None:
        """Load and verify a policy on every serving sampler, and evict those that fail.

        Raises ModelError when vLLM refuses the adapter, SamplerError for an old version, ResourcesError.
        """
        async with self._publishing:
            if not self.policies.is_new(policy.number):
                raise SamplerError(f"policy {policy.number} comes after policy {self.policies.current} was published")
            # One copy in the object store, from where every node fetches it; an argument would be copied for each call.
            handle = await asyncio.to_thread(ray.put, policy)
            # No await from here to the calls: a sampler either serves now, or finds the policy before it gets work.
            live = self.policies.add(policy.number, handle)
            self.weight_syncs = []
            loads = [self._load(replica, handle, live) for replica in self.serving()]
            results = await asyncio.gather(*loads, return_exceptions=True)
            if refusals := [error for error in results if error is not None]:
                self.policies.discard(policy.number)
                raise refusals[0]

    async def verify(self, replica: SamplerReplica) -> None:
        """Load and verify every live policy on a sampler, and those that are published meanwhile."""
        verified: dict[int, WeightSync] = {}
        while True:
            handles = self.policies.handles()
            missing = [(n, handle) for n, handle in self._mode.policies_to_load(handles) if n not in verified]
            if not missing:
                break
            version, handle = missing[0]
            live = frozenset(number for number, _ in handles)
            sync, verification = await self._load_policy(replica, handle, live)
            if verification.failure is not None:
                replica.num_failed_verifications += 1
                if replica.num_failed_verifications > 1:
                    self.dispatcher.fail(_not_verified(replica, verification.failure))
                raise SamplerError(f"it {verification.failure}")
            verified[version] = sync
        replica.num_failed_verifications = 0
        if self.policies.newest in verified:
            self.weight_syncs.append(verified[self.policies.newest])

    def fail_if_none_ready(self) -> None:
        """Fail the pool when no sampler is ready and none can be started."""
        if self.dispatcher.num_ready:
            return
        now, deadline = time.monotonic(), self._settings.start_deadline_seconds
        hopeless = [
            replica
            for replica in self.down()
            if replica.num_failed_starts >= MAX_FAILED_STARTS or now - replica.down_since >= deadline
        ]
        # Only if this holds for all replicas: one that lacks resources may be down for long while others start.
        if hopeless and len(hopeless) == len(self.replicas):
            last = max(hopeless, key=lambda replica: replica.down_since)
            self.dispatcher.fail(
                SamplerError(
                    f"no sampler is left: {last.name} has been down for {now - last.down_since:.0f} s with "
                    f"{last.num_failed_starts} failed starts; last error: {last.last_error}"
                )
            )

    def broken(self, error: BaseException) -> CaravanError:
        """Return the error of all further work when the pool's own code failed."""
        return SamplerError(f"the sampler pool failed: {error!r}")

    def on_ready(self, replica: SamplerReplica, seconds: float) -> None:
        """Log that a sampler is ready."""
        verified = (
            f"verified on policy {self.policies.newest}" if self.policies.handles() else "no policy to verify yet"
        )
        self._log(f"{replica.name}: ready after {seconds:.0f} s, {verified}")

    def on_evicted(self, replica: SamplerReplica, error: CaravanError) -> None:
        """Back off, or fail the pool when its last sampler crashes again and again without output."""
        replica.num_crashes += 1
        self.back_off(replica)
        if replica.num_crashes >= MAX_CRASHES and not self.dispatcher.num_ready:
            self.dispatcher.fail(
                SamplerError(
                    f"{replica.name} crashed {replica.num_crashes} times in a row without output, and no other sampler is left; "
                    f"last error: {error}"
                )
            )
        else:
            logger.warning("%s: restarting: %s", replica.name, error)

    def on_drained(self, replica: SamplerReplica) -> None:
        """Log that a sampler has stopped."""
        self._log(f"{replica.name}: drained and stopped")

    async def before_stop(self) -> None:
        """Wait until no policy is being loaded."""
        async with self._publishing:
            pass

    async def _load_policy(
        self, replica: SamplerReplica, handle: ray.ObjectRef, live: frozenset[int]
    ) -> tuple[WeightSync, Verification]:
        return await replica.load_policy(handle, live, self.tolerance, self._settings.publish_deadline_seconds)

    async def _load(self, replica: SamplerReplica, handle: ray.ObjectRef, live: frozenset[int]) -> None:
        actor = replica.actor
        if actor is None:  # it died since the samplers were listed
            return
        try:
            sync, verification = await self._load_policy(replica, handle, live)
        except (SamplerError, DeadlineExceeded) as error:
            self.evict(replica, actor, error)
            return
        if verification.failure is None:
            replica.num_failed_verifications = 0
            self.weight_syncs.append(sync)
        else:
            replica.num_failed_verifications += 1
            self.evict(replica, actor, SamplerError(f"it {verification.failure}"))


def _not_verified(replica: SamplerReplica, failure: str) -> ModelError:
    return ModelError(
        f"{replica.name} {failure}. A new engine failed like the one before it; training would continue on samples of another "
        "policy. Compare model, dtype and LoRA targets of learner and samplers, then resume the run"
    )
