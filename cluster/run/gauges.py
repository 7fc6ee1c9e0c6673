"""The metrics of a run as Ray's own metrics, which every node exports for Prometheus."""

import re
from collections.abc import Mapping

from ray.util.metrics import Gauge

RAY = "ray_"
"""Prefix that Ray gives to every metric."""


def exported_name(metric: str) -> str:
    """Return the name of a metric in Prometheus; it has underscores for the slashes of TRL's names."""
    return f"{RAY}caravan_{re.sub(r'[^a-zA-Z0-9_]', '_', metric)}"


class Gauges:
    """One gauge per metric, under its exported name, tagged with the run. Ray must be initialized."""

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._gauges: dict[str, Gauge] = {}

    def show(self, metrics: Mapping[str, float | None]) -> None:
        """Set the gauges; a metric that is None keeps its last value."""
        for name, value in metrics.items():
            if value is None:
                continue
            if name not in self._gauges:
                gauge = exported_name(name).removeprefix(RAY)
                self._gauges[name] = Gauge(gauge, description=name, tag_keys=("run",))
            self._gauges[name].set(value, tags=self._tags)
