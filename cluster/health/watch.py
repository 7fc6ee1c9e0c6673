"""Health while a run is going on: what is said, what is changed and when it is stopped (``health.on_unhealthy``)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cluster.config.config import Config, flatten
from cluster.config.schedule import CHANGEABLE, Branch
from cluster.errors import ConfigError
from cluster.health.history import LEVEL_STEPS, Epochs, History, Row, Stretch
from cluster.health.judging import FIGURES, RULES, Finding, judge, last_change, steps_of_changes
from cluster.health.remedies import Patient, Remedy, remedy_for
from cluster.health.rules import STEPS_TO_SHOW, Health
from cluster.health.run import SETTINGS, weight_sync_gaps
from cluster.ledger.run_folder import RunFolder, whole_rows

Mode = Literal["warn", "stop", "adapt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What follows from a step."""

    news: tuple[Finding, ...] = ()  # trouble that was not told lately
    remedy: Remedy | None = None  # it holds from the next step on
    stop: Finding | None = None  # why the run should end here


class HealthWatch:
    """Judges a run after each step, by its whole history: what was interrupted and goes on is judged as if it had not been."""

    def __init__(
        self,
        config: Config,
        *,
        steps: Iterable[Row] = (),
        phases: Sequence[Row] = (),
        health: Sequence[Row] = (),
        weight_sync_gaps: Iterable[float] = (),
    ) -> None:
        """The rest are rows of the run's metrics.jsonl, phases.jsonl and health.jsonl so far, and the gaps at its publishes."""
        self._mode: Mode = config.health.on_unhealthy
        self._configured = flatten(config)
        self._changed_at = last_change(phases)
        self._last_change = max(steps_of_changes(phases), default=0)  # those of a ramp, too
        self._steps: list[Row] = []
        self._epochs = Epochs()
        self._complete: list[Stretch] = []
        self._weight_sync_gaps = list(weight_sync_gaps)
        self._told = {(row["rule"], row["health"]): int(row["step"]) for row in health}
        self._num_in_trouble = {rule.id: 0 for rule in RULES}  # steps in a row, until now
        self.interventions = [Branch(from_step=row["step"], set=row["set"]) for row in health if "set" in row]
        self.stopped_for: Finding | None = None
        earlier = [{name: row[name] for name in FIGURES if name in row} for row in steps]
        self._take(earlier[:-LEVEL_STEPS])
        self._config = self._config_of_last_step(config, earlier)
        self._in_force: Mapping[str, Any] = flatten(self._config)
        for row in earlier[-LEVEL_STEPS:]:
            self._take([row])
            if row["step"] > self._changed_at:
                self._judge()

    def published(self, gap: float | None) -> None:
        """The samplers have taken over a policy, at this largest gap to the learner in nats per token; None: not measured."""
        if gap is not None:
            self._weight_sync_gaps.append(gap)

    def after_step(self, row: Row, config: Config) -> Response:
        """Judge the run after a step, which was taken under this configuration."""
        step = int(row["step"])
        if config is not self._config:
            active_overrides = flatten(config)
            if any(active_overrides.get(key) != self._in_force.get(key) for key in CHANGEABLE):
                self._note_change(step - 1)
            self._config, self._in_force = config, active_overrides
        self._take([{name: row[name] for name in FIGURES if name in row}])
        findings = self._judge()
        news = tuple(finding for finding in findings if self._is_news(finding, step))
        self._told |= {(finding.rule.id, str(finding.health)): step for finding in news}
        remedy = self._remedy(findings, step) if self._mode == "adapt" else None
        if remedy:
            self._told[remedy.finding.rule.id, str(remedy.finding.health)] = step
            self.interventions.append(Branch(from_step=step, set=remedy.set))
            self._num_in_trouble = dict.fromkeys(self._num_in_trouble, 0)
        self.stopped_for = None if remedy else self._reason_to_stop(findings, step)
        return Response(news=news, remedy=remedy, stop=self.stopped_for)

    def _config_of_last_step(self, config: Config, steps: Sequence[Row]) -> Config:
        """The configuration as phases, branches and interventions had it when the last step was taken."""
        if not steps:
            return config
        epoch = steps[-2]["epoch"] if len(steps) > 1 else 0.0
        schedule = config.schedule(self.interventions)
        return config.changed(schedule.at(step=int(steps[-1]["step"]) - 1, epoch=epoch))

    def _take(self, rows: Sequence[Row]) -> None:
        """Add steps to the history."""
        self._steps += rows
        self._complete += [closed for closed in map(self._epochs.add, rows) if closed]

    def _judge(self) -> list[Finding]:
        findings = judge(self._history())
        for finding in findings:
            count = self._num_in_trouble[finding.rule.id]
            self._num_in_trouble[finding.rule.id] = count + 1 if finding.is_trouble else 0
        return findings

    def _history(self) -> History:
        return History(
            steps=self._steps,
            epochs=self._complete,
            settings={key: self._in_force[key] for key in SETTINGS},
            changed_at=self._changed_at,
            weight_sync_gaps=self._weight_sync_gaps[-LEVEL_STEPS:],
        )

    def _note_change(self, step: int) -> None:
        """Settings have changed after a step; the steps of a ramp count where it began."""
        if step - self._last_change > 1:
            self._changed_at = step
        self._last_change = step

    def _is_news(self, finding: Finding, step: int) -> bool:
        told = self._told.get((finding.rule.id, str(finding.health)))
        return finding.is_trouble and (told is None or step - told >= STEPS_TO_SHOW)

    def _has_had_time(self, step: int) -> bool:
        since = max([self._changed_at, *(one.from_step for one in self.interventions[-1:])])
        return since == 0 or step - since >= STEPS_TO_SHOW

    def _remedy(self, findings: Sequence[Finding], step: int) -> Remedy | None:
        """For the first rule that has been in trouble for a while and has one; one at a time, and time for each to show."""
        lasting = [finding for finding in findings if self._num_in_trouble[finding.rule.id] >= LEVEL_STEPS]
        return next(self._remedies(lasting), None) if self._has_had_time(step) else None

    def _remedies(self, findings: Sequence[Finding]) -> Iterator[Remedy]:
        patient = Patient(history=self._history(), now=self._in_force, configured=self._configured)
        for finding in findings:
            remedy = remedy_for(finding, patient) if finding.is_trouble else None
            if remedy and self._is_possible(remedy):
                yield remedy

    def _is_possible(self, remedy: Remedy) -> bool:
        try:
            self._config.changed(remedy.set)
        except ConfigError:
            return False
        return True

    def _reason_to_stop(self, findings: Sequence[Finding], step: int) -> Finding | None:
        """Why the run should end: at once for numbers that went wrong, else when what was changed has had time to show."""
        stops = [finding for finding in findings if finding.health is Health.STOP]
        if self._mode == "warn" or not stops:
            return None
        if stops[0].rule.id == "numbers":
            return stops[0]
        has_remedies = self._mode == "adapt" and any(True for _ in self._remedies(findings))
        return stops[0] if self._has_had_time(step) and not has_remedies else None


def watch_of(folder: RunFolder, config: Config) -> HealthWatch:
    """The watch over a run that begins, or goes on from what its folder holds. Raises RunFolderError."""
    return HealthWatch(
        config,
        steps=list(whole_rows(folder.metrics)),
        phases=list(whole_rows(folder.phases)),
        health=list(whole_rows(folder.health)),
        weight_sync_gaps=weight_sync_gaps(list(whole_rows(folder.publishes))),
    )
