"""``caravan train --resume RUN``: the configuration of a run, with changed settings or another length."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.config.config import LENGTH, Config, flatten, validate
from cluster.config.load import load_config, parse_override
from cluster.config.schedule import check_changeable
from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.run_folder import RunFolder
from learner.training.checkpoints import newest_checkpoint, step_of

RUN_FOLDER_KEYS = {"run.folder", "run.name"}


def resumed_config(run: Path, overrides: Sequence[str]) -> Config:
    """The configuration in the run folder; ``overrides`` take effect from the newest checkpoint.

    Keys of placement (num_samplers, ...) are set directly. Other keys, and a new length, which may extend a finished run,
    become an entry of ``resume_overrides`` in config.yaml, which every later start applies. Raises RunFolderError if there is
    nothing to resume, and ConfigError for a key that cannot change.
    """
    folder = RunFolder(run)
    if not folder.config.exists():
        raise RunFolderError(f"{run} is not the folder of a run: it has no config.yaml")
    parsed = {override: parse_override(override) for override in overrides}
    moved = [override for override, (key, _) in parsed.items() if folder.may_differ(key)]
    for key in RUN_FOLDER_KEYS & {key for key, _ in parsed.values()}:
        raise ConfigError(
            f"{key}: --resume continues in {run} itself; to continue elsewhere, copy the folder and resume the copy"
        )
    config = load_config(folder.config, moved, environment={})
    place = run.resolve()  # the folder may have been copied or renamed
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
            raise ConfigError(f"{error}. Start another run with it: run.name=NAME") from None
    checkpoint = newest_checkpoint(folder.checkpoints)
    if checkpoint is None:
        raise RunFolderError(
            f"{run} has no checkpoint to resume from: start it again with `caravan train`, with any settings"
        )
    length = dict.fromkeys(LENGTH) if any(key in wanted for key in LENGTH) else {}  # either key replaces the other
    plain = flatten(config.changed({**length, **wanted}))  # validated, with the types of the fields
    adjusted = _adjusted(config, folder)
    changes = {key: plain[key] for key in wanted if key in adjusted or plain[key] != _active_value(config, key)}
    if not changes:
        return config
    done = step_of(checkpoint)
    override = {"from_step": done, "set": changes}
    resumed = validate(
        {**config.model_dump(exclude_unset=True), "resume_overrides": [*config.resume_overrides, override]}
    )
    if length:
        _check_long_enough(resumed, folder, done)
    return resumed


def _check_long_enough(config: Config, folder: RunFolder, done: int) -> None:
    """Raise ConfigError if the new length is below the number of steps done."""
    length = config.length()
    key = "loop.epochs" if length["loop.max_steps"] is None else "loop.max_steps"
    value = length[key] or 1.0
    num_steps = value if key == "loop.max_steps" else config.num_steps(folder.num_problems(done))
    if num_steps < done:
        raise ConfigError(
            f"{key}={value}: {folder.path} has done {done} steps, more than the {num_steps} of this length. Give a larger "
            "value, or start another run with run.name=NAME"
        )


def _adjusted(config: Config, folder: RunFolder) -> set[str]:
    """Keys that an automatic adjustment has changed, and no resume override since."""
    overridden_at = {key: override.from_step for override in config.resume_overrides for key in override.set}
    rows = folder.rows(folder.health, missing_ok=True)
    return {key for row in rows for key in row.get("set", ()) if row["step"] > overridden_at.get(key, -1)}


def _active_value(config: Config, key: str) -> Any:
    """The value of a key in all later steps; Ellipsis where the schedule changes it."""
    if key in LENGTH:
        return config.length()[key]
    for override in reversed(config.resume_overrides):
        if key in override.set:
            return override.set[key]
    return ... if any(key in entry.set for entry in config.schedule) else flatten(config)[key]
