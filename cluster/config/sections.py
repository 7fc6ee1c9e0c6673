"""Sections of the configuration that the run itself reads, and the tree of all sections.

The roles define their own sections: rollout.settings, grader.settings and learner.settings.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cluster.config.dataset_part import Part
from cluster.config.method import sync_mode_conflict, with_sync_mode
from cluster.errors import ConfigError
from cluster.setting_traits import Trait
from grader.reward import profile_of
from grader.settings import GraderSettings
from learner.settings import LearnerSettings
from rollout.prompt_settings import PromptSettings
from rollout.settings import RolloutSettings

STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

MAX_NAME_BYTES = 255
"""Longest name of a folder on Linux's usual file systems."""


class RunSettings(BaseModel):
    """Run directory, tracker and seed."""

    model_config = STRICT

    name: Annotated[str | None, Trait.PLACEMENT] = Field(
        default=None,
        description="run directory below run.folder; default: the name of the configuration file",
    )
    folder: Annotated[Path, Trait.PLACEMENT] = Field(
        default=Path("runs"), description="parent of run directories; the run directory is run.folder/run.name"
    )
    tracker: Annotated[Literal["tensorboard", "wandb", "mlflow", "trackio", "none"], Trait.PLACEMENT] = Field(
        default="tensorboard",
        description="destination of metrics besides metrics.jsonl: tensorboard/ in the run directory, or an installed tracker",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2_000_000_000,  # the upper 32 bits of the 64-bit seed of every request
        description="seed of the shuffle, the samples and the adapter's initial weights",
    )

    @field_validator("name")
    @classmethod
    def _names_one_folder(cls, name: str | None) -> str | None:
        if name is not None:
            if name in ("", ".", "..") or "/" in name or not name.isprintable():
                raise ValueError(
                    "must be the name of one folder, without a slash or control characters (run.folder is its parent)"
                )
            if (size := len(os.fsencode(name))) > MAX_NAME_BYTES:
                raise ValueError(
                    f"has {size} bytes, and file systems take {MAX_NAME_BYTES} at most: give a shorter name"
                )
        return name

    @field_validator("folder")
    @classmethod
    def _expand_home(cls, folder: Path) -> Path:
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
    """Dataset and its split."""

    model_config = STRICT

    dataset: Annotated[str, Trait.DATA_SOURCE] = Field(
        default="kiranpg/ocaml-training-problems",
        description="a Hugging Face id, a local file (CSV, TSV, JSONL, JSON, Parquet, Arrow; texts also as .gz), a folder of "
        "such files, or 'builtin'",
    )
    split: Annotated[str | None, Trait.DATA_SOURCE] = Field(
        default=None, description="split of a dataset that has several; default: train"
    )
    config: Annotated[str | None, Trait.DATA_SOURCE] = Field(
        default=None, description="configuration (subset) of a dataset that has several"
    )
    revision: Annotated[str | None, Trait.DATA_SOURCE] = Field(
        default=None, description="branch, tag or commit of a dataset on the Hugging Face hub"
    )
    held_out: int = Field(default=100, ge=0, description="number of problems held out for evaluation")
    split_seed: int = Field(default=0, ge=0, description="seed of the split into training and held-out problems")
    drop_unpassable: bool = Field(
        default=True, description="exclude problems whose tests no solution can pass, see `caravan audit`"
    )

    def part(self) -> Part:
        """Return the selected part of the dataset."""
        return Part(split=self.split, config=self.config, revision=self.revision)


class LoopSettings(BaseModel):
    """Batch size, length of the run, staleness and group filters."""

    model_config = STRICT

    groups_per_step: int = Field(default=4, ge=1, description="groups in one optimizer step")
    max_steps: Annotated[int | None, Trait.RUN_LENGTH] = Field(
        default=None,
        ge=1,
        description="optimizer steps; or give loop.epochs. A run, finished or not, is extended by `caravan train --resume RUN "
        "max_steps=MORE`; the learning rate then follows the schedule of a run that had this length from the start",
    )
    epochs: Annotated[float | None, Trait.RUN_LENGTH] = Field(
        default=None, gt=0, description="passes over the training problems; default 1. Can be extended in the same way"
    )
    max_staleness: int = Field(
        default=0,
        ge=0,
        description="maximum number of policy versions between sampling and training a token: 0 synchronous, "
        "1 one-step off-policy, more fully asynchronous",
    )
    oversampling: float = Field(
        default=1.0,
        ge=1,
        le=8,
        description="factor on the number of groups in flight; raise it if many groups are filtered",
    )
    drop_groups_without_signal: Annotated[bool, Trait.CHANGEABLE] = Field(
        default=False,
        description="drop groups whose rewards are all equal, and sample replacements (DAPO's dynamic sampling)",
    )
    max_truncated_share: Annotated[float, Trait.CHANGEABLE] = Field(
        default=1.0,
        ge=0,
        le=1,
        description="drop groups with a larger share of completions that hit max_completion_tokens; 1 is off",
    )
    min_mean_reward: Annotated[float, Trait.CHANGEABLE] = Field(
        default=0.0, ge=0, le=1, description="drop groups with a lower mean reward as too hard; 0 is off"
    )
    max_mean_reward: Annotated[float, Trait.CHANGEABLE] = Field(
        default=1.0, ge=0, le=1, description="drop groups with a higher mean reward as too easy; 1 is off"
    )
    max_filtered_per_step: int | None = Field(
        default=None,
        ge=1,
        description="groups dropped for one step before the filters are suspended, with a warning; default 8 x groups_per_step",
    )
    save_every_steps: Annotated[int, Trait.PLACEMENT] = Field(
        default=20, ge=1, description="steps between checkpoints; the last step always gets one"
    )

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

    num_problems: int = Field(default=100, ge=0, description="held-out problems; 0 disables evaluation")
    completions_per_problem: int = Field(default=4, ge=1)
    at_checkpoints: bool = Field(
        default=False,
        description="evaluate at every checkpoint, at the same time as training, and keep the best: checkpoints/best.json",
    )
    greedy: bool = Field(
        default=False,
        description="greedy decoding instead of the training sampler, with one completion per problem",
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="nucleus sampling: smallest set of tokens with this total probability; 1 is off",
    )
    top_k: int = Field(default=0, ge=0, description="number of likeliest tokens to sample from; 0 is off")
    min_p: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="exclude tokens with less than this fraction of the largest probability; 0 is off",
    )


class HealthSettings(BaseModel):
    """Reaction of a run to its health checks."""

    model_config = STRICT

    on_unhealthy: Annotated[Literal["warn", "stop", "adapt"], Trait.PLACEMENT] = Field(
        default="warn",
        description="reaction to the health checks after every step: warn logs alerts; stop ends the run with a checkpoint if "
        "a rule says stop; adapt changes temperature, group size, learning rate and KL within the bounds of docs/health.md, and "
        "stops if no change is left",
    )


class Sections(BaseModel):
    """All sections of the configuration."""

    model_config = STRICT

    run: RunSettings = RunSettings()
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    prompt: PromptSettings = PromptSettings()
    loop: LoopSettings = LoopSettings()
    rollout: RolloutSettings = RolloutSettings()
    grader: GraderSettings = GraderSettings()
    learner: LearnerSettings = LearnerSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    health: HealthSettings = HealthSettings()

    @model_validator(mode="before")
    @classmethod
    def _sync_mode_of_method(cls, tree: Any) -> Any:
        return with_sync_mode(tree) if isinstance(tree, dict) else tree

    @model_validator(mode="after")
    def _the_sync_mode_fits(self) -> "Sections":
        if conflict := sync_mode_conflict(self.learner.method, self.rollout.weight_sync_mode):
            raise ValueError(conflict)
        return self

    @field_validator("grader")
    @classmethod
    def _the_reward_is_possible(cls, grader: GraderSettings) -> GraderSettings:
        try:
            profile_of(grader)
        except ConfigError as error:
            raise ValueError(f"grader.reward={grader.reward!r}: {error}") from None
        return grader
