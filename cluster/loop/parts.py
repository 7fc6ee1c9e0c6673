"""Parts that the driver is built from: pools, training problems, and hooks (recorder, evaluation, health)."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.health.monitor import HealthMonitor, Response
from cluster.ledger.outcomes import DroppedGroup
from cluster.problems.dataset import ProblemStream
from cluster.protocols import GraderPool, Learner, SamplerPool
from cluster.types import Group, Prompt, StepReport, WeightSync

Evaluate = Callable[[int], Coroutine[Any, Any, None]]
"""An evaluation of the policy of a step, while the samplers serve that policy."""


class Recorder(Protocol):
    """Receiver of the events of a run; the real one is cluster.run.recorder."""

    def group_dropped(self, dropped: DroppedGroup, step: int) -> None:
        """Record a group that is not trained; ``step`` is the last one done."""
        ...

    def step_done(
        self,
        epoch: float,
        groups: Sequence[Group],
        report: StepReport,
        metrics: Mapping[str, float],
        active_overrides: Mapping[str, Any],
    ) -> None:
        """Record a learner step and the learner settings that were overridden for it."""
        ...

    def settings_changed(self, step: int, values: Mapping[str, Any]) -> None:
        """Record new values of settings after a step, by dotted key."""
        ...

    def health_checked(self, step: int, response: Response) -> None:
        """Record alerts and mitigations after a step."""
        ...

    def policy_published(self, version: int, syncs: Sequence[WeightSync], began_at: float, seconds: float) -> None:
        """Record that every sampler serves a policy version; ``began_at`` in Unix seconds."""
        ...

    def filter_suspended(self, step: int) -> None:
        """Record that the group filter is suspended until the next batch."""
        ...

    def save_progress(self, step: int, state: str) -> None:
        """Save the state that resuming from the checkpoint of this step needs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """The parts of a run that do its work."""

    samplers: SamplerPool
    graders: GraderPool
    learner: Learner


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProblems:
    """The training problems in the order of the run, with their prompts."""

    stream: ProblemStream
    prompts: Mapping[str, Prompt]  # by problem id


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Parts of a run that the driver calls after each step."""

    recorder: Recorder
    evaluate: Evaluate | None = None  # at each checkpoint but the last
    health: HealthMonitor | None = None  # may change settings or end the run
