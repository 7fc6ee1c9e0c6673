"""Settings that change over a run: one mechanism for curricula, schedules, ramps, and what is changed when a run is resumed.

A phase begins at a step or an epoch and sets keys; a key keeps its value until another phase sets it. With ``ramp`` a number goes
to its new value in a straight line, from where the phase before it that set the key (or the run) began. A branch begins where the
run was resumed: what it sets stays, whatever phases say of the key. It alone may set the length of the run as well.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from learner.overrides import CHANGEABLE as CHANGEABLE_IN_THE_LEARNER
from learner.overrides import check_changeable as check_changeable_in_the_learner

CHANGEABLE = (
    "grader.weights.structural",
    "grader.weights.type_check",
    "grader.weights.compile",
    "grader.weights.tests",
    "grader.min_code_lines",
    "grader.runaway_multiplier",
    "grader.degenerate_multiplier",
    "grader.shown_assert_weight",
    *(f"learner.{key}" for key in CHANGEABLE_IN_THE_LEARNER),
    "loop.drop_groups_without_signal",
    "loop.max_mean_reward",
    "loop.max_truncated_share",
    "loop.min_mean_reward",
    "rollout.group_size",
    "rollout.max_completion_tokens",
    "rollout.temperature",
)
"""What is read anew for every group, grade or step; everything else is built into the parts when they start."""

LENGTH = ("loop.max_steps", "loop.epochs")
"""How long the run is, by one of them: the parts are told when they start, so that it can change where the run is resumed."""


class Phase(BaseModel):
    """From when on which keys have which values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    from_step: int | None = Field(default=None, ge=0, description="steps done when the phase begins")
    from_epoch: float | None = Field(default=None, ge=0, description="epochs done when the phase begins")
    ramp: bool = Field(default=False, description="numbers go to the values of this phase in a straight line")
    set: dict[str, Any] = Field(min_length=1, description="values by dotted key")

    @model_validator(mode="after")
    def _begins_somewhere(self) -> "Phase":
        if (self.from_step is None) == (self.from_epoch is None):
            raise ValueError("phases: each phase has either from_step or from_epoch")
        for key, value in self.set.items():
            check_changeable(key)
            if self.ramp and not _is_number(value):
                raise ValueError(f"phases: {key}={value!r} is no number and cannot be reached by a ramp")
        return self

    @property
    def begins_at(self) -> float:
        """Steps or epochs."""
        return self.from_epoch if self.from_step is None else self.from_step  # type: ignore[return-value]


class Branch(BaseModel):
    """What was changed where the run was resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    from_step: int = Field(ge=0, description="steps done when the run was resumed")
    set: dict[str, Any] = Field(min_length=1, description="values by dotted key")

    @model_validator(mode="after")
    def _sets_what_may_change(self) -> "Branch":
        for key in self.set:
            if key not in LENGTH:
                check_changeable(key)
        return self


PRESETS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    # The staged rewards of the first training analysis (its option A): syntax, then the transition, then correctness.
    "staged-rewards": [
        {"from_epoch": start, "set": {f"grader.weights.{term}": weight for term, weight in weights.items()}}
        for start, weights in (
            (0.0, {"structural": 0.10, "type_check": 0.40, "compile": 0.30, "tests": 0.20}),
            (0.5, {"structural": 0.05, "type_check": 0.25, "compile": 0.20, "tests": 0.50}),
            (1.0, {"structural": 0.05, "type_check": 0.20, "compile": 0.10, "tests": 0.65}),
        )
    ],
    # The two phases of the second one (its epochs 8 to 10 and 11 to 15): find good patterns, then make them consistent.
    "explore-refine": [
        {"from_epoch": 0.0, "set": {"learner.kl_coefficient": 0.05, "rollout.temperature": 1.3}},
        {"from_epoch": 3.0, "set": {"learner.kl_coefficient": 0.1, "rollout.temperature": 1.0}},
    ],
}


class Schedule:
    """The values of the keys that phases set, at any point of a run."""

    def __init__(self, phases: Sequence[Phase], base: Mapping[str, Any], branches: Sequence[Branch] = ()) -> None:
        """``base``: the run's values by dotted key; ``phases`` count either steps or epochs, and begin one after the other."""
        self._phases = phases
        self._branches = branches
        self._base = base
        changes: tuple[Phase | Branch, ...] = (*phases, *branches)
        self._keys = sorted({key for change in changes for key in change.set if key not in LENGTH})

    def at(self, *, step: int, epoch: float) -> dict[str, Any]:
        """Values by dotted key after that many steps and epochs; keys that no phase sets are not among them."""
        return {key: self._value(key, step=step, epoch=epoch) for key in self._keys}

    def _value(self, key: str, *, step: int, epoch: float) -> Any:
        for branch in reversed(self._branches):
            if key in branch.set and branch.from_step <= step:
                return branch.set[key]
        began_at, value = 0.0, self._base[key]
        for phase in self._phases:
            if key not in phase.set:
                continue
            now = epoch if phase.from_step is None else step
            if phase.begins_at <= now:
                began_at, value = phase.begins_at, phase.set[key]
            elif phase.ramp:
                share = (now - began_at) / (phase.begins_at - began_at)
                ramped = value + share * (phase.set[key] - value)
                return round(ramped) if isinstance(value, int) and isinstance(phase.set[key], int) else ramped
            else:
                break
        return value


def check_changeable(key: str) -> None:
    """Raise ValueError, which says what can change, for a key that cannot change while a run is going on."""
    # A key's end, as the command line takes it, or a slip of the hand; another key that exists is refused with the reason.
    ends = [name for name in CHANGEABLE if name.endswith(f".{key}")]
    meant = ends or difflib.get_close_matches(key, CHANGEABLE, n=1, cutoff=0.9)
    if not meant and "." not in key:
        by_end = {name.rpartition(".")[2]: name for name in CHANGEABLE}
        meant = [by_end[end] for end in difflib.get_close_matches(key, by_end, n=1, cutoff=0.8)]
    if key not in CHANGEABLE and meant:
        raise ValueError(f"{key} is no key that can change while a run is going on; did you mean {' or '.join(meant)}?")
    if key.startswith("learner."):
        check_changeable_in_the_learner(key.removeprefix("learner."))
    elif key not in CHANGEABLE:
        raise ValueError(f"{key} cannot change while a run is going on; these can: {', '.join(CHANGEABLE)}")


def check_order(phases: Sequence[Phase]) -> None:
    """Raise ValueError where phases do not follow one another, or count differently."""
    if len({phase.from_step is None for phase in phases}) > 1:
        raise ValueError("phases: count either steps (from_step) or epochs (from_epoch), not both in one run")
    starts = [phase.begins_at for phase in phases]
    if starts != sorted(set(starts)):
        raise ValueError(
            f"phases: each begins after the one before it, not at {', '.join(f'{one:g}' for one in starts)}"
        )


def preset(name: str) -> Sequence[Mapping[str, Any]]:
    """The phases of a preset; raises ValueError for a name that there is not."""
    if name not in PRESETS:
        raise ValueError(f"phases={name}: there is no such preset; there are {', '.join(PRESETS)}, or a list of phases")
    return PRESETS[name]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
