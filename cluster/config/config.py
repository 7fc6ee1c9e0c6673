"""The configuration: one typed, frozen tree of sections, with the schedule and the resume overrides of a run.

Unknown keys, impossible values and contradictions are refused with the key, the value and the allowed values. ``load.py`` fills
the tree from files, environment and overrides; ``keys.py`` lists its dotted keys.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from cluster.config.keys import is_text, keys, keys_with, mappings, rename_old_keys, resolve_key, sections
from cluster.config.method import FULL
from cluster.config.schedule import PRESETS, ResumeOverride, Schedule, ScheduleEntry, check_order, preset
from cluster.config.sections import Sections
from cluster.config.yaml_text import dump_yaml_text
from cluster.errors import ConfigError
from cluster.setting_traits import Trait

LENGTH = keys_with(Trait.RUN_LENGTH)
CHANGES = {"schedule", "resume_overrides"}


class Config(Sections):
    """All settings of a run."""

    schedule: tuple[ScheduleEntry, ...] = Field(
        default=(),
        description="settings that change during the run: a list of {from_epoch | from_step, set: {key: value}, ramp: false}, or "
        f"a preset ({', '.join(PRESETS)})",
    )
    resume_overrides: tuple[ResumeOverride, ...] = Field(
        default=(),
        description="settings that were changed when the run was resumed; written by `caravan train --resume RUN key=value`",
    )

    @field_validator("schedule", mode="before")
    @classmethod
    def _presets_by_name(cls, schedule: Any) -> Any:
        return preset(schedule) if isinstance(schedule, str) else schedule

    @model_validator(mode="after")
    def _every_change_is_possible(self) -> "Config":
        check_order(self.schedule)
        base, plain = flatten(self), self.model_dump(exclude=CHANGES, exclude_unset=True)
        limit = self.rollout.max_completion_tokens
        changes: tuple[ScheduleEntry | ResumeOverride, ...] = (*self.schedule, *self.resume_overrides)
        for change in changes:
            for key in LENGTH if any(key in change.set for key in LENGTH) else ():
                assign(plain, key, None)  # either key of the run length replaces both
            for key, value in change.set.items():
                if isinstance(change, ScheduleEntry) and change.ramp and base[key] is None:
                    raise ValueError(f"schedule: a ramp of {key} needs a number to start from; set {key} for the run")
                if key == "rollout.max_completion_tokens" and isinstance(value, int) and value > limit:
                    raise ValueError(
                        f"{key}={value} is more than the {limit} that the engines start with; "
                        f"set {key} of the run to the largest value"
                    )
                base[key] = value
                assign(plain, key, value)
            validate(plain)  # raises ConfigError, which names the key and the value
        return self

    def settings_schedule(self, adjustments: Sequence[ResumeOverride] = ()) -> Schedule:
        """Return the settings over the whole run, with automatic ``adjustments`` of the health monitor."""
        # The sort is stable: at the same step a resume override takes precedence.
        overrides = sorted((*adjustments, *self.resume_overrides), key=lambda override: override.from_step)
        base = flatten(self.model_copy(update={"schedule": (), "resume_overrides": ()}))
        return Schedule(self.schedule, base, overrides=overrides)

    def length(self) -> dict[str, Any]:
        """Return loop.max_steps and loop.epochs, of which at most one is set, with the resume overrides applied."""
        length = {"loop.max_steps": self.loop.max_steps, "loop.epochs": self.loop.epochs}
        for override in self.resume_overrides:
            if changed := {key: override.set[key] for key in LENGTH if key in override.set}:
                length = {**dict.fromkeys(LENGTH), **changed}
        return length

    def num_steps(self, num_problems: int) -> int:
        """Return the optimizer steps of the whole run on this number of training problems."""
        max_steps, epochs = (self.length()[key] for key in LENGTH)
        return max_steps or math.ceil((epochs or 1.0) * num_problems / self.loop.groups_per_step)

    def changed(self, values: Mapping[str, Any]) -> "Config":
        """Return the configuration with these values, by dotted key, without schedule and resume overrides."""
        plain = self.model_dump(exclude=CHANGES, exclude_unset=True)
        for key, value in values.items():
            assign(plain, key, value)
        return validate(plain)

    def with_prompt(self, **values: Any) -> "Config":
        """Return the configuration with these settings of the ``prompt`` section, without those that it sets itself."""
        unset = {key: value for key, value in values.items() if getattr(self.prompt, key) is None}
        return self.model_copy(update={"prompt": self.prompt.model_copy(update=unset)})

    def without_learner(self) -> "Config":
        """Return the configuration with no resources for a learner, for commands that do not train."""
        return self.model_copy(update={"learner": self.learner.model_copy(update={"cpus": 0.0, "gpus": 0.0})})


def validate(tree: Mapping[str, Any]) -> Config:
    """Return a tree of plain values as a Config; old names of keys are accepted. Raises ConfigError."""
    renamed, _ = rename_old_keys(tree)
    try:
        return Config.model_validate(renamed)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from None


def flatten(config: BaseModel) -> dict[str, Any]:
    """Return plain values by dotted key, for comparing and printing."""
    return dict(leaves(config.model_dump(mode="json"), ""))


def dump_yaml(config: Config) -> str:
    """Return the resolved configuration as YAML that load_config reads back.

    Unset fields that are computed from the cluster are omitted: a resumed run computes them again.
    """
    tree = config.model_dump(mode="json")
    for key in keys_with(Trait.FROM_CLUSTER):
        section, name = key.split(".")
        if name not in getattr(config, section).model_fields_set:
            del tree[section][name]
    if config.learner.method == FULL:
        del tree["learner"]["lora"]
    return dump_yaml_text(tree)


def assign(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in a tree of plain values."""
    *parents, leaf = key.split(".")
    for number, section in enumerate(parents, start=1):
        child = tree.setdefault(section, {})
        if child is None:
            child = tree[section] = {}
        if not isinstance(child, dict):
            raise ConfigError(_not_a_section(".".join(parents[:number]), child))
        tree = child
    tree[leaf] = value


def leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of every leaf of a tree of plain values."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _not_a_section(key: str, value: Any) -> str:
    """The message about a section, or a mapping, that is given a single value."""
    if key in mappings():
        return f"{key}={value!r}: {key} is a mapping: write `{key}: {{NAME: VALUE}}`, or {key}.NAME=VALUE"
    first = next(name for name in keys() if name.startswith(f"{key}."))
    example = f"{{{first.removeprefix(f'{key}.')}: {value if isinstance(value, str) and is_text(first) else '...'}}}"
    return f"{key}={value!r}: {key} is a section of settings: write `{key}: {example}`, or {first}=..."


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "model_type" and key in sections():
        return _not_a_section(key, problem["input"])
    if problem["type"] == "extra_forbidden":
        try:
            resolve_key(key, in_sections=isinstance(problem["input"], dict))
        except ConfigError as error:
            return str(error)
        return f"unknown key {key!r}"
    if problem["type"] == "value_error" and not isinstance(problem["input"], str | int | float | None):
        return message  # the error is about a whole section, and its message names the keys
    named = message.partition("=")[0]
    if named and key.endswith(named):  # the message names its key without the section
        return f"{key.removesuffix(named)}{message}"
    return f"{key}={problem['input']!r}: {message}"
