"""Room for graders in the cluster, and the request for more of it to Ray's autoscaler."""

import time
from collections.abc import Callable, Mapping, Sequence

import ray
from ray.autoscaler.sdk import request_resources

PATIENCE_SECONDS = 10.0
"""For which there has to be no room before more is asked for: Ray's books are a little behind what has just ended."""


class Room:
    """What graders may take of the cluster. Its methods ask Ray, and may block for some milliseconds."""

    def __init__(
        self, cpus_per_grader: float, beside: Sequence[Mapping[str, float]], tell: Callable[[str], None]
    ) -> None:
        """``beside``: what the run's other parts reserve, a bundle of Ray's resources each; ``tell`` takes a line of news."""
        self._each = cpus_per_grader
        self._beside = [dict(bundle) for bundle in beside]
        self._tell = tell
        self._short_since: float | None = None  # monotonic seconds
        self._num_asked = 0  # graders that the autoscaler is to have room for; 0: nothing is asked

    def left(self, num_present: int) -> int:
        """How many graders fit beside so many, with what the other parts reserve left free, also while one is down."""
        others = sum(bundle.get("CPU", 0.0) for bundle in self._beside)
        reservable = ray.cluster_resources().get("CPU", 0.0) - others - num_present * self._each
        cpus = min(reservable, ray.available_resources().get("CPU", 0.0))
        return max(0, int((cpus + 1e-6) / self._each))

    def ask(self, wanted: int, *, lacking: int) -> None:
        """Ask for room for ``wanted`` graders where there has been none for some time for ``lacking`` of them."""
        now = time.monotonic()
        if not lacking:
            self._short_since = None
            return
        if self._short_since is None:
            self._short_since = now
        if now - self._short_since < PATIENCE_SECONDS or wanted == self._num_asked:
            return
        if not self._num_asked:
            self._tell(
                f"there is no room for {lacking} of {wanted} graders: Ray's autoscaler, where there is one, is asked for "
                "machines, and they start as soon as some join"
            )
        # Ray holds this against whole machines, whatever is in use there: so the other parts are named, too.
        request_resources(bundles=[*self._beside, *({"CPU": self._each} for _ in range(wanted))])
        self._num_asked = wanted

    def take_back(self) -> None:
        """Ask for nothing any more: machines that nobody uses may go."""
        self._short_since = None
        if self._num_asked:
            request_resources(bundles=[])
            self._num_asked = 0
