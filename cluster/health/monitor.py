"""Health checks during a run: alerts, automatic adjustments and stops (``health.on_unhealthy``)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cluster.config.config import Config, flatten
from cluster.config.schedule import CHANGEABLE, ResumeOverride
from cluster.errors import ConfigError
from cluster.health.checks import METRICS, RULES, CheckResult, check_run, last_change, steps_of_changes
from cluster.health.history import LEVEL_STEPS, Epochs, History, Row, Window
from cluster.health.mitigations import Mitigation, RunState, mitigation_for
from cluster.health.rules import STEPS_TO_SHOW, Health
from cluster.health.run_history import SETTINGS, weight_sync_gaps
from cluster.ledger.jsonl import whole_rows
from cluster.ledger.run_folder import RunFolder

Mode = Literal["warn", "stop", "adapt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Response of the monitor to a step."""

    alerts: tuple[CheckResult, ...] = ()  # not logged in the last STEPS_TO_SHOW steps
    mitigation: Mitigation | None = None  # applies from the next step on
    stop: CheckResult | None = None  # reason to end the run here


class HealthMonitor:
    """Checks a run after each step on its whole history, so that a resumed run gets the same results as an uninterrupted one."""

    def __init__(
        self,
        config: Config,
        *,
        steps: Iterable[Row] = (),
        phases: Sequence[Row] = (),
        health: Sequence[Row] = (),
        weight_sync_gaps: Iterable[float] = (),
    ) -> None:
        """``steps``, ``phases`` and ``health``: rows of the run's metrics.jsonl, phases.jsonl and health.jsonl so far."""
        self._mode: Mode = config.health.on_unhealthy
        self._configured = flatten(config)
        self._changed_at = last_change(phases)
        self._last_change = max(steps_of_changes(phases), default=0)  # steps of a ramp included
        self._steps: list[Row] = []
        self._epochs = Epochs()
        self._complete_epochs: list[Window] = []
        self._weight_sync_gaps = list(weight_sync_gaps)
        self._alerted_at = {(row["rule"], row["health"]): int(row["step"]) for row in health}
        self._num_alert_steps = {rule.id: 0 for rule in RULES}  # consecutive steps with an alert, by rule
        self.adjustments = [ResumeOverride(from_step=row["step"], set=row["set"]) for row in health if "set" in row]
        self.stopped_for: CheckResult | None = None
        earlier = [{name: row[name] for name in METRICS if name in row} for row in steps]
        self._add_steps(earlier[:-LEVEL_STEPS])
        self._config = self._config_of_last_step(config, earlier)
        self._settings: Mapping[str, Any] = flatten(self._config)
        for row in earlier[-LEVEL_STEPS:]:
            self._add_steps([row])
            if row["step"] > self._changed_at:
                self._check()

    def published(self, gap: float | None) -> None:
        """Add the largest weight-sync gap of a publish, nats per token; None: not measured."""
        if gap is not None:
            self._weight_sync_gaps.append(gap)

    def after_step(self, row: Row, config: Config) -> Response:
        """Check the run after a step that was taken under this configuration."""
        step = int(row["step"])
        if config is not self._config:
            settings = flatten(config)
            if any(settings.get(key) != self._settings.get(key) for key in CHANGEABLE):
                self._note_change(step - 1)
            self._config, self._settings = config, settings
        self._add_steps([{name: row[name] for name in METRICS if name in row}])
        results = self._check()
        alerts = tuple(result for result in results if self._is_new_alert(result, step))
        self._alerted_at |= {(result.rule.id, str(result.health)): step for result in alerts}
        mitigation = self._mitigation(results, step) if self._mode == "adapt" else None
        if mitigation:
            self._alerted_at[mitigation.alert.rule.id, str(mitigation.alert.health)] = step
            self.adjustments.append(ResumeOverride(from_step=step, set=mitigation.values))
            self._num_alert_steps = dict.fromkeys(self._num_alert_steps, 0)
        self.stopped_for = None if mitigation else self._reason_to_stop(results, step)
        return Response(alerts=alerts, mitigation=mitigation, stop=self.stopped_for)

    def _config_of_last_step(self, config: Config, steps: Sequence[Row]) -> Config:
        """Return the configuration with the overrides that were active at the last step."""
        if not steps:
            return config
        epoch = steps[-2]["epoch"] if len(steps) > 1 else 0.0
        schedule = config.settings_schedule(self.adjustments)
        return config.changed(schedule.at(step=int(steps[-1]["step"]) - 1, epoch=epoch))

    def _add_steps(self, rows: Sequence[Row]) -> None:
        """Add steps to the history."""
        self._steps += rows
        self._complete_epochs += [closed for closed in map(self._epochs.add, rows) if closed]

    def _check(self) -> list[CheckResult]:
        """Check the rules and count consecutive alerts."""
        results = check_run(self._history())
        for result in results:
            count = self._num_alert_steps[result.rule.id]
            self._num_alert_steps[result.rule.id] = count + 1 if result.is_alert else 0
        return results

    def _history(self) -> History:
        return History(
            steps=self._steps,
            epochs=self._complete_epochs,
            settings={key: self._settings[key] for key in SETTINGS},
            changed_at=self._changed_at,
            weight_sync_gaps=self._weight_sync_gaps[-LEVEL_STEPS:],
        )

    def _note_change(self, step: int) -> None:
        """Record that settings changed after a step. A ramp counts from its start."""
        if step - self._last_change > 1:
            self._changed_at = step
        self._last_change = step

    def _is_new_alert(self, result: CheckResult, step: int) -> bool:
        alerted_at = self._alerted_at.get((result.rule.id, str(result.health)))
        return result.is_alert and (alerted_at is None or step - alerted_at >= STEPS_TO_SHOW)

    def _has_had_time(self, step: int) -> bool:
        since = max([self._changed_at, *(adjustment.from_step for adjustment in self.adjustments[-1:])])
        return since == 0 or step - since >= STEPS_TO_SHOW

    def _mitigation(self, results: Sequence[CheckResult], step: int) -> Mitigation | None:
        """Return the first mitigation of a persistent alert; None while an earlier change may not have taken effect."""
        persistent = [result for result in results if self._num_alert_steps[result.rule.id] >= LEVEL_STEPS]
        return next(self._mitigations(persistent), None) if self._has_had_time(step) else None

    def _mitigations(self, results: Sequence[CheckResult]) -> Iterator[Mitigation]:
        run_state = RunState(history=self._history(), current=self._settings, configured=self._configured)
        for result in results:
            mitigation = mitigation_for(result, run_state) if result.is_alert else None
            if mitigation and self._is_possible(mitigation):
                yield mitigation

    def _is_possible(self, mitigation: Mitigation) -> bool:
        try:
            self._config.changed(mitigation.values)
        except ConfigError:
            return False
        return True

    def _reason_to_stop(self, results: Sequence[CheckResult], step: int) -> CheckResult | None:
        """Return the reason to end the run: non-finite numbers at once, others after changes have had time to take effect."""
        stops = [result for result in results if result.health is Health.STOP]
        if self._mode == "warn" or not stops:
            return None
        if stops[0].rule.id == "numbers":
            return stops[0]
        has_mitigations = self._mode == "adapt" and any(True for _ in self._mitigations(results))
        return stops[0] if self._has_had_time(step) and not has_mitigations else None


def monitor_of(folder: RunFolder, config: Config) -> HealthMonitor:
    """Return the monitor of a run, with the history in its directory. Raises RunFolderError."""
    return HealthMonitor(
        config,
        steps=list(whole_rows(folder.metrics)),
        phases=list(whole_rows(folder.phases)),
        health=list(whole_rows(folder.health)),
        weight_sync_gaps=weight_sync_gaps(list(whole_rows(folder.publishes))),
    )
