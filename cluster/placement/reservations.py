"""Reservations of a run's components, and the one request to Ray's autoscaler.

The learner's resources are fixed; the number of samplers and graders changes. Graders may only use what the learner and all
wanted samplers leave, also while a sampler is down; samplers may only use what the learner and the minimum of graders leave. A
pool below its own minimum takes precedence over what other pools want above theirs.
"""

import threading
import time
from collections.abc import Callable

import ray
from ray.autoscaler.sdk import request_resources

from cluster.actors.resources import ROUNDING, Bundle, alive_nodes, num_fitting
from cluster.config.config import Config
from cluster.protocols import Reservation

PATIENCE_SECONDS = 10.0
"""Time that resources have to be lacking before machines are requested: Ray's cluster state lags behind actors that ended."""


class Reservations:
    """Reservations of one run; its pools may call from any thread."""

    def __init__(self, config: Config, log: Callable[[str], None] = lambda _line: None) -> None:
        """``config`` after placement; ``log`` takes a log line."""
        rollout, grader, learner = config.rollout, config.grader, config.learner
        self._ranks: list[Bundle] = [learner.bundle] * learner.num_ranks if learner.bundle else []
        self._log = log
        self._lock = threading.Lock()
        self._requested: list[Bundle] = []  # from the autoscaler
        self.samplers = PoolReservation(self, "samplers", rollout.bundle, rollout.num_samplers, minimum=rollout.minimum)
        self.graders = PoolReservation(self, "graders", grader.bundle, grader.num_graders, minimum=grader.minimum)

    def of_others(self, pool: "PoolReservation", *, below_minimum: bool) -> list[Bundle]:
        """Resources that stay reserved when this pool grows.

        Below the pool's own minimum only the other pool's minimum is reserved.
        """
        samplers, graders = self.samplers, self.graders
        if pool is graders:
            return [*self._ranks, *samplers.bundles(samplers.minimum if below_minimum else samplers.num_wanted)]
        return [*self._ranks, *graders.bundles(graders.minimum)]

    def request_machines(self) -> None:
        """Request machines for all components while any pool lacks resources, and withdraw the request otherwise."""
        pools = (self.samplers, self.graders)
        with self._lock:
            bundles: list[Bundle] = []
            if any(pool.is_short for pool in pools):
                # Ray compares the request with whole machines, used or not: so it has to name all components.
                bundles = [*self._ranks, *(bundle for pool in pools for bundle in pool.bundles(pool.num_wanted))]
            if bundles != self._requested:
                request_resources(bundles=[dict(bundle) for bundle in bundles])
                self._requested = bundles

    def log(self, line: str) -> None:
        """Log a line."""
        self._log(line)


class PoolReservation(Reservation):
    """Reservation of one pool."""

    def __init__(self, run: Reservations, name: str, bundle: Bundle, num_wanted: int, *, minimum: int) -> None:
        """``bundle``: resources of each replica."""
        self._run = run
        self._name = name
        self._bundle = bundle
        self._short_since: float | None = None  # monotonic seconds
        self.num_wanted = num_wanted
        self.minimum = minimum
        self.is_short = False

    def bundles(self, number: int) -> list[Bundle]:
        """Return the resources of a number of replicas."""
        return [self._bundle] * number

    def num_additional(self, num_present: int) -> int:
        """Return how many more replicas fit: on single nodes, next to the reservations of others, and into what is free now."""
        nodes, total, free = alive_nodes(), ray.cluster_resources(), ray.available_resources()

        def fitting(others: list[Bundle]) -> int:
            found = float(num_fitting(self._bundle, nodes) - num_present)
            for name, amount in self._bundle.items():
                reserved = sum(bundle.get(name, 0.0) for bundle in others)
                reservable = total.get(name, 0.0) - reserved - num_present * amount
                found = min(found, reservable / amount, free.get(name, 0.0) / amount)
            return max(0, int(found + ROUNDING))

        to_minimum = min(self.minimum - num_present, fitting(self._run.of_others(self, below_minimum=True)))
        return max(fitting(self._run.of_others(self, below_minimum=False)), to_minimum)

    def request(self, num_wanted: int, *, minimum: int, num_unplaced: int) -> None:
        """Reserve for these numbers, and request machines once replicas have lacked resources for PATIENCE_SECONDS."""
        now = time.monotonic()
        if not num_unplaced:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        was_short = self.is_short
        self.is_short = self._short_since is not None and now - self._short_since >= PATIENCE_SECONDS
        self.num_wanted, self.minimum = num_wanted, minimum
        self._run.request_machines()
        if self.is_short and not was_short:
            self._run.log(
                f"{self._name}: no free resources for {num_unplaced} of {num_wanted}; they start as soon as machines join "
                "(requested from Ray's autoscaler, if the cluster has one)"
            )
