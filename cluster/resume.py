"""``caravan train --resume RUN``: the configuration of a run once more, with what may change on the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.config import Config, flatten, load_config, parse_override, validate
from cluster.phases import check_changeable
from cluster.run_folder import RunFolder, says_where
from cluster.types import ConfigError, RunFolderError
from learner.checkpoints import newest_checkpoint, step_of


def resumed_config(run: Path, overrides: Sequence[str]) -> Config:
    """The configuration in the run's folder; what ``overrides`` change holds from the newest checkpoint on.

    Keys that say where work is done (num_samplers, ...) are just set. Others become a branch of the run, in its config.yaml, that
    every further start goes by. Raises RunFolderError where there is nothing to go on with, and ConfigError, which names the key,
    where one cannot change.
    """
    folder = RunFolder(run)
    if not folder.config.exists():
        raise RunFolderError(f"{run} is not the folder of a run: it has no config.yaml")
    parsed = {override: parse_override(override) for override in overrides}
    moved = [override for override, (key, _) in parsed.items() if says_where(key)]
    place = [f"run.folder={run.resolve().parent}", f"run.name={run.resolve().name}"]
    config = load_config(folder.config, [*place, *moved], environment={})
    wanted = {key: value for key, value in parsed.values() if not says_where(key)}
    if not wanted:
        return config
    for key in wanted:
        try:
            check_changeable(key)
        except ValueError as error:
            raise ConfigError(f"{error}. Another run can have it: run.name=NAME") from None
    checkpoint = newest_checkpoint(folder.checkpoints)
    if checkpoint is None:
        raise RunFolderError(
            f"{run} has no checkpoint to go on from: start it again with `caravan train`, which may give it any settings"
        )
    plain = flatten(config.changed(wanted))  # checked, and numbers as numbers
    changes = {key: plain[key] for key in wanted if plain[key] != _in_force(config, key)}
    if not changes:
        return config
    branch = {"from_step": step_of(checkpoint), "set": changes}
    return validate({**config.model_dump(), "branches": [*config.branches, branch]})


def _in_force(config: Config, key: str) -> Any:
    """What the run has the key at, where that is the same at every step to come."""
    for branch in reversed(config.branches):
        if key in branch.set:
            return branch.set[key]
    return ... if any(key in phase.set for phase in config.phases) else flatten(config)[key]
