"""Settings that change during a run: schedules (curricula, ramps) and overrides given when a run is resumed.

A schedule entry starts at a step or an epoch and sets keys; a key keeps its value until another entry sets it. With ``ramp`` a
number moves linearly to its new value, starting where the previous entry that set the key (or the run) started. A resume override
starts where the run was resumed and takes precedence over the schedule. Only a resume override may change the run length.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cluster.config.keys import keys_with
from cluster.setting_traits import Trait
from learner.overrides import check_changeable as check_changeable_in_the_learner

CHANGEABLE = tuple(sorted(keys_with(Trait.CHANGEABLE)))
"""Keys that are read for every group, grade or step. All others are fixed when the components of a run start."""


class ScheduleEntry(BaseModel):
    """Values of keys from a step or an epoch on."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    from_step: int | None = Field(default=None, ge=0, description="steps done when the entry starts")
    from_epoch: float | None = Field(default=None, ge=0, description="epochs done when the entry starts")
    ramp: bool = Field(default=False, description="numbers move linearly to the values of this entry")
    set: dict[str, Any] = Field(min_length=1, description="values by dotted key")

    @model_validator(mode="after")
    def _check(self) -> "ScheduleEntry":
        if (self.from_step is None) == (self.from_epoch is None):
            raise ValueError("schedule: each entry has either from_step or from_epoch")
        for key, value in self.set.items():
            check_changeable(key)
            if self.ramp and not _is_number(value):
                raise ValueError(f"schedule: {key}={value!r} is not a number, so a ramp cannot reach it")
        return self

    @property
    def starts_at(self) -> float:
        """Step or epoch at which the entry starts."""
        return self.from_epoch if self.from_step is None else self.from_step  # type: ignore[return-value]


class ResumeOverride(BaseModel):
    """Values of keys from the step on at which a user resumed the run with them or the health monitor adjusted them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    from_step: int = Field(ge=0, description="steps done when the override starts")
    set: dict[str, Any] = Field(min_length=1, description="values by dotted key")

    @model_validator(mode="after")
    def _sets_changeable_keys(self) -> "ResumeOverride":
        for key in self.set:
            if key not in keys_with(Trait.RUN_LENGTH):
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
    # The two phases of the second training analysis (epochs 8 to 10 and 11 to 15): find good patterns, then make them consistent.
    "explore-refine": [
        {"from_epoch": 0.0, "set": {"learner.kl_coefficient": 0.05, "rollout.temperature": 1.3}},
        {"from_epoch": 3.0, "set": {"learner.kl_coefficient": 0.1, "rollout.temperature": 1.0}},
    ],
}


class Schedule:
    """The values of scheduled and overridden keys at any point of a run."""

    def __init__(
        self, entries: Sequence[ScheduleEntry], base: Mapping[str, Any], overrides: Sequence[ResumeOverride] = ()
    ) -> None:
        """``base``: configured values by dotted key. ``entries`` count steps or epochs, not both, and are in order."""
        self._entries = entries
        self._overrides = overrides
        self._base = base
        changes: tuple[ScheduleEntry | ResumeOverride, ...] = (*entries, *overrides)
        self._keys = sorted({key for change in changes for key in change.set} - set(keys_with(Trait.RUN_LENGTH)))

    def at(self, *, step: int, epoch: float) -> dict[str, Any]:
        """Return the values, after ``step`` steps and ``epoch`` epochs, of all keys that an entry or an override sets."""
        return {key: self._value(key, step=step, epoch=epoch) for key in self._keys}

    def _value(self, key: str, *, step: int, epoch: float) -> Any:
        for override in reversed(self._overrides):
            if key in override.set and override.from_step <= step:
                return override.set[key]
        started_at, value = 0.0, self._base[key]
        for entry in self._entries:
            if key not in entry.set:
                continue
            now = epoch if entry.from_step is None else step
            if entry.starts_at <= now:
                started_at, value = entry.starts_at, entry.set[key]
            elif entry.ramp:
                share = (now - started_at) / (entry.starts_at - started_at)
                ramped = value + share * (entry.set[key] - value)
                return round(ramped) if isinstance(value, int) and isinstance(entry.set[key], int) else ramped
            else:
                break
        return value


def check_changeable(key: str) -> None:
    """Raise ValueError, with the keys that can change, for a key that cannot change during a run."""
    # A misspelled key, or one without its section, gets a suggestion; an existing key that cannot change gets the reason.
    ends = [name for name in CHANGEABLE if name.endswith(f".{key}")]
    meant = ends or difflib.get_close_matches(key, CHANGEABLE, n=1, cutoff=0.9)
    if not meant and "." not in key:
        by_end = {name.rpartition(".")[2]: name for name in CHANGEABLE}
        meant = [by_end[end] for end in difflib.get_close_matches(key, by_end, n=1, cutoff=0.8)]
    if key not in CHANGEABLE and meant:
        raise ValueError(f"{key} is not a key that can change during a run; did you mean {' or '.join(meant)}?")
    if key.startswith("learner."):
        check_changeable_in_the_learner(key.removeprefix("learner."))
    elif key not in CHANGEABLE:
        raise ValueError(f"{key} cannot change during a run; these can: {', '.join(CHANGEABLE)}")


def check_order(entries: Sequence[ScheduleEntry]) -> None:
    """Raise ValueError if entries are not in order, or if some count steps and others epochs."""
    if len({entry.from_step is None for entry in entries}) > 1:
        raise ValueError("schedule: count either steps (from_step) or epochs (from_epoch), not both in one run")
    starts = [entry.starts_at for entry in entries]
    if starts != sorted(set(starts)):
        raise ValueError(
            f"schedule: each entry starts after the previous one, not at {', '.join(f'{start:g}' for start in starts)}"
        )


def preset(name: str) -> Sequence[Mapping[str, Any]]:
    """Return the entries of a preset; raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(
            f"schedule={name}: unknown preset; write one of {', '.join(PRESETS)}, or a list of schedule entries"
        )
    return PRESETS[name]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
