"""The configuration: one typed tree, filled from defaults < YAML file < environment < command line.

Every section stands beside the code that reads it (rollout.settings, grader.settings, learner.settings, and below). Unknown
keys, impossible values and contradictions are refused with the key, the value and what is allowed.
"""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from cluster.config.dataset_part import Part
from cluster.config.environment import ENVIRONMENT, NOT_USED, read_environment
from cluster.config.schedule import LENGTH, PRESETS, Branch, Phase, Schedule, check_order, preset
from cluster.config.yaml_text import parse_yaml
from cluster.errors import ConfigError
from grader.reward import profile_of
from grader.settings import GraderSettings
from learner.settings import LearnerSettings
from learner.trl_names import REFUSED as NO_OPTIONS_OF_THE_LEARNER
from rollout.settings import RolloutSettings

STRICT = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


MAX_NAME_BYTES = 255
"""Of the name of a folder, on Linux's usual file systems."""


class RunSettings(BaseModel):
    """Where a run lives and what makes it repeatable."""

    model_config = STRICT

    name: str | None = Field(
        default=None,
        description="folder under run.folder; default: the name of the configuration file",
    )
    folder: Path = Field(
        default=Path("runs"), description="where run folders are made: that of a run is run.folder/run.name"
    )
    tracker: Literal["tensorboard", "wandb", "mlflow", "trackio", "none"] = Field(
        default="tensorboard",
        description="where figures go besides metrics.jsonl: tensorboard/ in the run's folder, or a tracker that is installed",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2_000_000_000,  # every request has a seed of 64 bits, of which these are the upper 32
        description="of the shuffle, the samples and the adapter's initial weights",
    )

    @field_validator("name")
    @classmethod
    def _names_one_folder(cls, name: str | None) -> str | None:
        if name is not None:
            if name in ("", ".", "..") or "/" in name or not name.isprintable():
                raise ValueError(
                    "the name of one folder, without a slash or control characters (where it lies is run.folder)"
                )
            if (size := len(os.fsencode(name))) > MAX_NAME_BYTES:
                raise ValueError(
                    f"has {size} bytes, and file systems take {MAX_NAME_BYTES} at most: give a shorter name"
                )
        return name

    @field_validator("folder")
    @classmethod
    def _of_the_user(cls, folder: Path) -> Path:
        if not str(folder).isprintable():
            raise ValueError("control characters cannot be in the name of a folder")
        return folder.expanduser()


class ModelSettings(BaseModel):
    """The policy's base model."""

    model_config = STRICT

    path: str = Field(
        default="Qwen/Qwen2.5-Coder-1.5B-Instruct",
        description="a Hugging Face id, a local folder, or 'tiny' (the built-in model)",
    )
    adapter: Path | None = Field(default=None, description="eval and sample: a LoRA adapter folder in PEFT format")

    @field_validator("path")
    @classmethod
    def _expand_home(cls, path: str) -> str:
        return str(Path(path).expanduser()) if path.startswith("~") else path

    @field_validator("adapter")
    @classmethod
    def _expand_home_of_adapter(cls, adapter: Path | None) -> Path | None:
        return adapter.expanduser() if adapter else None


class DataSettings(BaseModel):
    """The problems."""

    model_config = STRICT

    dataset: str = Field(
        default="kiranpg/ocaml-training-problems",
        description="a Hugging Face id, a local file (CSV, TSV, JSONL, JSON, Parquet, Arrow; texts also as .gz), a folder of "
        "such files, or 'builtin'",
    )
    split: str | None = Field(default=None, description="of a data set with several; default: train")
    config: str | None = Field(default=None, description="configuration (subset) of a data set with several")
    revision: str | None = Field(default=None, description="branch, tag or commit of a data set of the hub")
    held_out: int = Field(default=100, ge=0, description="problems kept apart for evaluation")
    split_seed: int = Field(default=0, ge=0, description="of the split into training and held-out problems")
    drop_unpassable: bool = Field(
        default=True, description="leave out problems whose tests no solution can pass, see `caravan audit`"
    )

    def part(self) -> Part:
        """Return which part of the data set is meant."""
        return Part(split=self.split, config=self.config, revision=self.revision)


class LoopSettings(BaseModel):
    """How sampling and learning take turns."""

    model_config = STRICT

    groups_per_step: int = Field(default=4, ge=1, description="groups in one optimizer step")
    max_steps: int | None = Field(
        default=None,
        ge=1,
        description="optimizer steps; or give loop.epochs. A run, finished or not, is extended by `caravan train --resume RUN "
        "max_steps=MORE`: the learning rate then goes on as in a run that was so long from the start",
    )
    epochs: float | None = Field(
        default=None, gt=0, description="passes over the training problems; default 1. Extended likewise"
    )
    max_staleness: int = Field(
        default=0,
        ge=0,
        description="how many policy versions a token may be behind when it is trained: 0 synchronous, 1 one step off, more "
        "fully asynchronous",
    )
    oversampling: float = Field(
        default=1.0,
        ge=1,
        le=8,
        description="groups sampled at a time, as a multiple of those that a step needs: more where many are filtered",
    )
    drop_groups_without_signal: bool = Field(
        default=False, description="leave out groups whose rewards are all equal, and sample others in their place"
    )
    max_truncated_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="leave out groups of which more were cut at max_completion_tokens; 1 is off",
    )
    min_mean_reward: float = Field(
        default=0.0, ge=0, le=1, description="leave out groups whose mean reward is lower, as too hard; 0 is off"
    )
    max_mean_reward: float = Field(
        default=1.0, ge=0, le=1, description="leave out groups whose mean reward is higher, as too easy; 1 is off"
    )
    max_filtered_per_step: int | None = Field(
        default=None,
        ge=1,
        description="groups left out for one step before all are kept again, with a warning; default 8 x groups_per_step",
    )
    save_every_steps: int = Field(default=20, ge=1, description="steps between checkpoints; the last step is saved too")

    @model_validator(mode="after")
    def _one_length(self) -> "LoopSettings":
        if self.max_steps is not None and self.epochs is not None:
            raise ValueError("loop.max_steps and loop.epochs contradict each other: give one of them")
        return self

    @model_validator(mode="after")
    def _some_group_can_pass(self) -> "LoopSettings":
        if self.min_mean_reward >= self.max_mean_reward:
            raise ValueError(
                f"loop.min_mean_reward={self.min_mean_reward:g} leaves nothing below "
                f"loop.max_mean_reward={self.max_mean_reward:g}: raise the second or lower the first"
            )
        return self


class EvaluationSettings(BaseModel):
    """The held-out evaluation before and after training."""

    model_config = STRICT

    num_problems: int = Field(default=100, ge=0, description="held-out problems; 0 leaves the evaluation out")
    completions_per_problem: int = Field(default=4, ge=1)
    at_checkpoints: bool = Field(
        default=False,
        description="measure at every checkpoint too, while steps go on more slowly, and keep the best: checkpoints/best.json",
    )
    greedy: bool = Field(
        default=False,
        description="take the likeliest token each time, in place of sampling as in training, and one completion of each problem",
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="sample from the likeliest tokens that make up this share; 1 is off"
    )
    top_k: int = Field(default=0, ge=0, description="sample from this many likeliest tokens; 0 is off")
    min_p: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="leave out tokens less likely than this share of the likeliest one's; 0 is off",
    )


class HealthSettings(BaseModel):
    """What a run does about its own health."""

    model_config = STRICT

    on_unhealthy: Literal["warn", "stop", "adapt"] = Field(
        default="warn",
        description="`caravan health` after every step: warn says what is wrong; stop ends the run, with a checkpoint, where a "
        "rule says stop; adapt changes temperature, group size, learning rate and KL as the analyses would, within their bounds, "
        "and stops where that is used up",
    )


class Config(BaseModel):
    """Everything a run can be told."""

    model_config = STRICT

    run: RunSettings = RunSettings()
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    loop: LoopSettings = LoopSettings()
    rollout: RolloutSettings = RolloutSettings()
    grader: GraderSettings = GraderSettings()
    learner: LearnerSettings = LearnerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    health: HealthSettings = HealthSettings()
    phases: tuple[Phase, ...] = Field(
        default=(),
        description="what changes over the run: a list of {from_epoch | from_step, set: {key: value}, ramp: false}, or a preset "
        f"({', '.join(PRESETS)})",
    )

    branches: tuple[Branch, ...] = Field(
        default=(),
        description="what was changed where the run was resumed: written by `caravan train --resume RUN key=value`",
    )

    @field_validator("phases", mode="before")
    @classmethod
    def _presets_by_name(cls, phases: Any) -> Any:
        return preset(phases) if isinstance(phases, str) else phases

    @model_validator(mode="after")
    def _every_phase_is_possible(self) -> "Config":
        check_order(self.phases)
        base, plain = flatten(self), self.model_dump(exclude={"phases", "branches"}, exclude_unset=True)
        limit = self.rollout.max_completion_tokens
        changes: tuple[Phase | Branch, ...] = (*self.phases, *self.branches)
        for phase in changes:
            for key in LENGTH if any(key in phase.set for key in LENGTH) else ():
                _assign(plain, key, None)  # one of them takes the place of both
            for key, value in phase.set.items():
                if isinstance(phase, Phase) and phase.ramp and base[key] is None:
                    raise ValueError(f"phases: a ramp of {key} needs a number to begin with; set {key} for the run")
                if key == "rollout.max_completion_tokens" and isinstance(value, int) and value > limit:
                    raise ValueError(
                        f"{key}={value} is more than the engines are started for; set {key} of the run to the largest"
                    )
                base[key] = value
                _assign(plain, key, value)
            validate(plain)  # raises ConfigError, which names the key and the value
        return self

    def settings_schedule(self, adjustments: Sequence[Branch] = ()) -> Schedule:
        """The values of what the phases change, at any point of the run; ``adjustments`` are what its health made it change."""
        branches = sorted(
            (*adjustments, *self.branches), key=lambda branch: branch.from_step
        )  # stable: who resumes decides
        base = flatten(self.model_copy(update={"phases": (), "branches": ()}))
        return Schedule(self.phases, base, branches=branches)

    def length(self) -> dict[str, Any]:
        """loop.max_steps and loop.epochs, of which one or none is given, as the branches have them."""
        length = {"loop.max_steps": self.loop.max_steps, "loop.epochs": self.loop.epochs}
        for branch in self.branches:
            if changed := {key: branch.set[key] for key in LENGTH if key in branch.set}:
                length = {**dict.fromkeys(LENGTH), **changed}
        return length

    def num_steps(self, num_problems: int) -> int:
        """Optimizer steps of the whole run, on so many training problems."""
        max_steps, epochs = (self.length()[key] for key in LENGTH)
        return max_steps or math.ceil((epochs or 1.0) * num_problems / self.loop.groups_per_step)

    def changed(self, values: Mapping[str, Any]) -> "Config":
        """The same with these values, by dotted key, and without phases."""
        plain = self.model_dump(exclude={"phases", "branches"}, exclude_unset=True)
        for key, value in values.items():
            _assign(plain, key, value)
        return validate(plain)

    @field_validator("grader")
    @classmethod
    def _the_reward_is_possible(cls, grader: GraderSettings) -> GraderSettings:
        try:
            profile_of(grader)
        except ConfigError as error:
            raise ValueError(f"grader.reward={grader.reward!r}: {error}") from None
        return grader

    def dated(self, day: date) -> "Config":
        """The same with the date that chat templates may write, unless the configuration gives one."""
        if self.rollout.prompt_date is not None:
            return self
        return self.model_copy(update={"rollout": self.rollout.model_copy(update={"prompt_date": day})})

    def without_learner(self) -> "Config":
        """The same with nothing reserved for a learner, for commands that do not train."""
        return self.model_copy(update={"learner": self.learner.model_copy(update={"cpus": 0.0, "gpus": 0.0})})


# What cluster/placement/ray_cluster.py works out from the GPUs and cores that there are, where nobody sets it.
FILLED_IN = (
    "rollout.gpus_per_sampler",
    "rollout.gpu_memory_utilization",
    "learner.gpus",
    "rollout.cpus_per_sampler",
    "grader.cpus_per_grader",
    "learner.cpus",
)


# Keys that other trainers have and that would do harm here.
REFUSED = {
    f"rollout.{name}": "completions that are trained are sampled from the whole distribution. Where a tail is cut off, what the "
    "samplers drew from is not the policy that the learner's ratio compares with, and the gradient is biased. "
    f"Lower rollout.temperature instead; evaluation.{name} cuts the tail in evaluations"
    for name in ("top_p", "top_k", "min_p")
}


def load_config(
    path: Path | None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    log: Callable[[str], None] = lambda _line: None,
) -> Config:
    """The tree from a YAML file (or None), ``key=value`` overrides and the environment (default: the process's).

    ``log`` is called with a line for each setting from the environment. Raises ConfigError: the key, the value, what is allowed.
    """
    tree: dict[str, Any] = _read_yaml(path) if path else {}
    reading = read_environment(os.environ if environment is None else environment, keys())
    _overlay(tree, reading.values.items())
    given = [parse_override(override) for override in overrides]
    _overlay(tree, given)
    try:
        config = validate(tree)
    except ConfigError as error:
        raise ConfigError(_with_variables(str(error), reading.variables, dict(given))) from None
    for line in reading.lines(overridden=dict(given)):
        log(line)
    if path and config.run.name is None:
        _assign(tree, "run.name", path.stem)
        return validate(tree)
    return config


def _with_variables(message: str, variables: Mapping[str, str], given: Mapping[str, Any]) -> str:
    """An error with the variables that set the keys it names: whoever reads it may have written neither."""
    named = [
        f"{key} is set by the environment variable {variable}"
        for key, variable in variables.items()
        if key not in given and re.search(rf"{re.escape(key)}(?!\w)", message)
    ]
    return f"{message} ({'; '.join(named)})" if named else message


def parse_override(override: str) -> tuple[str, Any]:
    """Dotted key and plain value of a ``key=value``; raises ConfigError."""
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"{override!r} is not an override: write key=value, for example rollout.temperature=1.1")
    resolved = resolve_key(key.strip())
    bare = text.strip()
    if _is_text(resolved) and bare.lower() not in ("", "~", "null") and bare[0] not in "\"'":
        return resolved, bare  # a name such as 1.10 or 2026-11-22 is no number and no date
    return resolved, parse_yaml(text, override)


def validate(tree: Mapping[str, Any]) -> Config:
    """A tree of plain values as a Config; raises ConfigError."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from None


def flatten(config: BaseModel) -> dict[str, Any]:
    """Dotted key -> plain value, for comparing and printing."""
    return dict(_leaves(config.model_dump(mode="json"), ""))


def dump_yaml(config: Config) -> str:
    """The resolved configuration as YAML that load_config reads back.

    What the cluster fills in where nobody sets it is left out then: it is to be filled in again wherever the run goes on.
    """
    tree = config.model_dump(mode="json")
    for key in FILLED_IN:
        section, name = key.split(".")
        if name not in getattr(config, section).model_fields_set:
            del tree[section][name]
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def keys() -> Iterator[str]:
    """Every dotted key of the tree."""
    return (key for key, _ in _fields(Config))


def explain_keys() -> str:
    """Every key with its default, the environment variable that sets it, and its meaning."""
    lines = []
    for key, info in _fields(Config):
        variables = [f"[{variable}]" for variable, named in ENVIRONMENT.items() if named == key]
        lines.append(" ".join([f"{key} = {info.default}", *variables]))
        lines.extend([f"    {info.description}"] if info.description else [])
    lines.append("\nEnvironment variables that set no key:")
    lines.extend(f"{variable}\n    {reason}" for variable, reason in NOT_USED.items())
    return "\n".join(lines)


def resolve_key(key: str, *, sections: bool = False) -> str:
    """A dotted key, or the end of one where it is unambiguous (``temperature`` for ``rollout.temperature``).

    With ``sections``, of a section (``lora`` for ``learner.lora``). Raises ConfigError for any other.
    """
    known = list(_sections(Config)) if sections else list(keys())
    if key in known:
        return key
    if key in REFUSED:
        raise ConfigError(f"{key}: {REFUSED[key]}")
    if (option := key.removeprefix("learner.")) in NO_OPTIONS_OF_THE_LEARNER and not (
        key == option and any(candidate.endswith(f".{key}") for candidate in known)
    ):
        raise ConfigError(f"learner.{option}: {NO_OPTIONS_OF_THE_LEARNER[option]}")
    matches = [candidate for candidate in (*known, *REFUSED) if candidate.endswith(f".{key}")]
    if len(matches) == 1:
        return matches[0]
    if matches:
        reasons = "".join(f"; {one} cannot be set: {REFUSED[one]}" for one in matches if one in REFUSED)
        raise ConfigError(f"{key!r} is ambiguous: {', '.join(matches)}{reasons}")
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    near += [candidate for candidate in known if candidate.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    hint = f"; did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
    raise ConfigError(f"unknown key {key!r}{hint}")


def _is_text(key: str) -> bool:
    """Whether the value of a dotted key is a text or a path, and nothing else."""
    return dict(_fields(Config))[key].annotation in (str, str | None, Path, Path | None)


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted key and field of every leaf of the tree."""
    for name, info in model.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from _fields(section, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", info


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path} must hold sections such as 'rollout:', not {type(tree).__name__}")
    try:
        return _nested(tree or {})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _nested(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """The tree with dotted keys, and ends of keys, put into their sections. Raises ConfigError for a key that is given twice."""
    # A section whose keys are all commented out is None to YAML.
    nested: dict[str, Any] = {
        str(name): dict(value) if isinstance(value, dict) else {} if value is None else value
        for name, value in tree.items()
        if name in Config.model_fields
    }
    for name, value in tree.items():
        if name in Config.model_fields:
            continue
        key = str(name)
        if key.partition(".")[0] not in Config.model_fields:
            key = resolve_key(key, sections=isinstance(value, dict))
        for leaf, plain in _leaves({key: value}, "") if key in _sections(Config) else ((key, value),):
            if leaf in dict(_leaves(nested, "")):
                raise ConfigError(f"{leaf} is given twice, once under {name!r}: keep one")
            _assign(nested, leaf, plain)
    return nested


def _overlay(tree: dict[str, Any], values: Iterable[tuple[str, Any]]) -> None:
    """Put values over those below. The length of a run has two keys, of which the one that is given last counts."""
    above = list(values)
    if any(key in LENGTH for key, _ in above):
        for key in LENGTH:
            _assign(tree, key, None)
    for key, value in above:
        _assign(tree, key, value)


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, leaf = key.split(".")
    for section in sections:
        child = tree.setdefault(section, {})
        if not isinstance(child, dict):
            raise ConfigError(_no_section(section, child))
        tree = child
    tree[leaf] = value


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _sections(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted key of every section of the tree."""
    for name, info in model.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield f"{prefix}{name}"
            yield from _sections(section, f"{prefix}{name}.")


def _no_section(key: str, value: Any) -> str:
    """The message about a section that is given one value."""
    first = next(one for one in keys() if one.startswith(f"{key}."))
    example = f"{{{first.removeprefix(f'{key}.')}: {value if isinstance(value, str) and _is_text(first) else '...'}}}"
    return f"{key}={value!r}: {key} is a section of settings: write `{key}: {example}`, or {first}=..."


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "model_type" and key in _sections(Config):
        return _no_section(key, problem["input"])
    if problem["type"] == "extra_forbidden":
        try:
            resolve_key(key, sections=isinstance(problem["input"], dict))
        except ConfigError as error:
            return str(error)
        return f"unknown key {key!r}"
    if problem["type"] == "value_error" and not isinstance(problem["input"], str | int | float | None):
        return message  # about a whole section, so that the message names the keys
    named = message.partition("=")[0]
    if named and key.endswith(named):  # the message names its key, but not the section
        return f"{key.removesuffix(named)}{message}"
    return f"{key}={problem['input']!r}: {message}"
