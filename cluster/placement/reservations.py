"""What the parts of a run claim of the cluster: whether more of them have room, and the one request to Ray's autoscaler.

The learner has what it has; samplers and graders come and go. More graders leave free what the samplers that are wanted take,
also while one of those is down; more samplers leave what the learner and the least number of graders take. Where there are fewer
than the least, these come before what else is wanted.
"""

import threading
import time
from collections.abc import Callable, Mapping

import ray
from ray.autoscaler.sdk import request_resources

from cluster.config.config import Config
from cluster.protocols import Reservation
from rollout.room import ROUNDING, num_that_fit

Bundle = Mapping[str, float]
"""Resources that one member takes on one machine, by Ray's names."""

PATIENCE_SECONDS = 10.0
"""For which there has to be no room before more is asked for: Ray's books are a little behind what has just ended."""


class Reservations:
    """What one run claims; its pools may ask from any thread."""

    def __init__(self, config: Config, tell: Callable[[str], None] = lambda _line: None) -> None:
        """``config`` is the placed one; ``tell`` takes a line of news."""
        rollout, grader, learner = config.rollout, config.grader, config.learner
        rank = {name: amount for name, amount in (("CPU", learner.cpus), ("GPU", learner.gpus)) if amount > 0}
        self._ranks: list[Bundle] = [rank] * learner.num_ranks if rank else []
        self._tell = tell
        self._lock = threading.Lock()
        self._asked: list[Bundle] = []  # of the autoscaler
        self.samplers = PoolReservation(
            self, "samplers", rollout.bundle, wanted=rollout.num_samplers, least=rollout.minimum
        )
        self.graders = PoolReservation(
            self, "graders", {"CPU": grader.cpus_per_grader}, wanted=grader.num_graders, least=grader.minimum
        )

    def beside(self, pool: "PoolReservation", *, is_least: bool) -> list[Bundle]:
        """What more members of a pool leave free; of its least number, ``is_least``, each leaves the least of the others."""
        samplers, graders = self.samplers, self.graders
        if pool is graders:
            return [*self._ranks, *samplers.bundles(samplers.least if is_least else samplers.wanted)]
        return [*self._ranks, *graders.bundles(graders.least)]

    def changed(self, told: str | None) -> None:
        """Ask for machines for everything while any pool lacks room, and for none otherwise."""
        pools = (self.samplers, self.graders)
        with self._lock:
            bundles: list[Bundle] = []
            if any(pool.is_short for pool in pools):
                # Ray holds this against whole machines, whatever is in use there: so it has to name all parts.
                bundles = [*self._ranks, *(one for pool in pools for one in pool.bundles(pool.wanted))]
            if bundles != self._asked:
                request_resources(bundles=[dict(bundle) for bundle in bundles])
                self._asked = bundles
        if told:
            self._tell(told)


class PoolReservation(Reservation):
    """What one pool claims."""

    def __init__(self, reservations: Reservations, name: str, bundle: Bundle, *, wanted: int, least: int) -> None:
        """``bundle`` is what each member takes."""
        self._reservations = reservations
        self._name = name
        self._bundle = bundle
        self._short_since: float | None = None  # monotonic seconds
        self.wanted = wanted
        self.least = least
        self.is_short = False

    def bundles(self, number: int) -> list[Bundle]:
        """What so many members take."""
        return [self._bundle] * number

    def num_additional(self, num_present: int) -> int:
        """How many more members fit: on single machines, in all, and of what is free just now."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        total, free = ray.cluster_resources(), ray.available_resources()

        def room(others: list[Bundle]) -> int:
            found = float(num_that_fit(self._bundle, nodes) - num_present)
            for name, amount in self._bundle.items():
                taken = sum(bundle.get(name, 0.0) for bundle in others)
                reservable = total.get(name, 0.0) - taken - num_present * amount
                found = min(found, reservable / amount, free.get(name, 0.0) / amount)
            return max(0, int(found + ROUNDING))

        of_the_least = min(self.least - num_present, room(self._reservations.beside(self, is_least=True)))
        return max(room(self._reservations.beside(self, is_least=False)), of_the_least)

    def request(self, number: int, *, minimum: int, num_unplaced: int) -> None:
        """Take note of these numbers, and ask for machines where some members have lacked room for PATIENCE_SECONDS."""
        now = time.monotonic()
        if not num_unplaced:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        was_short = self.is_short
        self.is_short = self._short_since is not None and now - self._short_since >= PATIENCE_SECONDS
        self.wanted, self.least = number, minimum
        told = None
        if self.is_short and not was_short:
            told = (
                f"there is no room for {num_unplaced} of {number} {self._name}: Ray's autoscaler, where there is one, is asked "
                "for machines, and they start as soon as some join"
            )
        self._reservations.changed(told)
