"""``caravan train --resume RUN``: the configuration of a run once more, with what may change on the way, its length included."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.config.config import Config, flatten, load_config, parse_override, validate
from cluster.config.schedule import LENGTH, check_changeable
from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.run_folder import RunFolder
from learner.training.checkpoints import newest_checkpoint, step_of

WHERE_IT_LIES = {"run.folder", "run.name"}


def resumed_config(run: Path, overrides: Sequence[str]) -> Config:
    """The configuration in the run's folder; what ``overrides`` change holds from the newest checkpoint on.

    Keys that say where work is done (num_samplers, ...) are just set. Others become a branch of the run, in its config.yaml, that
    every further start goes by; so does a new length, by which a finished run can be extended. Raises RunFolderError where there
    is nothing to go on with, and ConfigError, which names the key, where one cannot change.
    """
    folder = RunFolder(run)
    if not folder.config.exists():
        raise RunFolderError(f"{run} is not the folder of a run: it has no config.yaml")
    parsed = {override: parse_override(override) for override in overrides}
    moved = [override for override, (key, _) in parsed.items() if folder.may_differ(key)]
    for key in WHERE_IT_LIES & {key for key, _ in parsed.values()}:
        raise ConfigError(
            f"{key}: --resume goes on in {run} itself; to go on elsewhere, copy the folder and resume the copy"
        )
    config = load_config(folder.config, moved, environment={})
    place = run.resolve()  # which may be a copy, or have another name by now
    config = config.model_copy(
        update={"run": config.run.model_copy(update={"folder": place.parent, "name": place.name})}
    )
    wanted = {key: value for key, value in parsed.values() if not folder.may_differ(key)}
    if not wanted:
        return config
    for key in (key for key in wanted if key not in LENGTH):
        try:
            check_changeable(key)
        except ValueError as error:
            raise ConfigError(f"{error}. Another run can have it: run.name=NAME") from None
    checkpoint = newest_checkpoint(folder.checkpoints)
    if checkpoint is None:
        raise RunFolderError(
            f"{run} has no checkpoint to go on from: start it again with `caravan train`, which may give it any settings"
        )
    length = dict.fromkeys(LENGTH) if any(key in wanted for key in LENGTH) else {}  # one takes the place of the other
    plain = flatten(config.changed({**length, **wanted}))  # checked, and numbers as numbers
    adapted = _adapted(config, folder)
    changes = {key: plain[key] for key in wanted if key in adapted or plain[key] != _in_force(config, key)}
    if not changes:
        return config
    done = step_of(checkpoint)
    branch = {"from_step": done, "set": changes}
    branched = validate({**config.model_dump(exclude_unset=True), "branches": [*config.branches, branch]})
    if length:
        _check_long_enough(branched, folder, done)
    return branched


def _check_long_enough(config: Config, folder: RunFolder, done: int) -> None:
    """Raise ConfigError where the run would end before the steps that it has done."""
    length = config.length()
    key = "loop.epochs" if length["loop.max_steps"] is None else "loop.max_steps"
    value = length[key] or 1.0
    num_steps = value if key == "loop.max_steps" else config.num_steps(folder.num_problems(done))
    if num_steps < done:
        raise ConfigError(
            f"{key}={value}: {folder.path} has done {done} steps, more than the {num_steps} that this makes. They cannot be "
            "undone: give more, or start another run: run.name=NAME"
        )


def _adapted(config: Config, folder: RunFolder) -> set[str]:
    """Keys that were changed for the run's health, and by nobody since."""
    branched_at = {key: branch.from_step for branch in config.branches for key in branch.set}
    rows = folder.rows(folder.health, missing_ok=True)
    return {key for row in rows for key in row.get("set", ()) if row["step"] > branched_at.get(key, -1)}


def _in_force(config: Config, key: str) -> Any:
    """What the run has the key at, where that is the same at every step to come."""
    if key in LENGTH:
        return config.length()[key]
    for branch in reversed(config.branches):
        if key in branch.set:
            return branch.set[key]
    return ... if any(key in phase.set for phase in config.phases) else flatten(config)[key]
