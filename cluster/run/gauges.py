"""The metrics of a run as Ray's own metrics, which every node exports for Prometheus."""

import re
from collections.abc import Mapping

from ray.util.metrics import Gauge


class Gauges:
    """One gauge per metric, ``ray_caravan_<name>``, tagged with the run. Ray must be initialized."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._gauges: dict[str, Gauge] = {}

    def show(self, metrics: Mapping[str, float | None]) -> None:
        """Set the gauges; a metric that is None keeps its last value."""
        for name, value in metrics.items():
            if value is None:
                continue
            if name not in self._gauges:
                # Prometheus allows no slashes, which TRL's names contain.
                self._gauges[name] = Gauge(
                    f"caravan_{re.sub(r'[^a-zA-Z0-9_]', '_', name)}", description=name, tag_keys=("run",)
                )
            self._gauges[name].set(value, tags=self._tags)
