"""``caravan regrade``: the completions that a run has stored, scored under another reward from their facts alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.analysis.regrade_figures import Regraded
from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.files import opened_rollouts
from cluster.ledger.row_files import SUFFIXES, write_rows
from cluster.ledger.rows import FACT_COLUMNS, TERMS, facts_of
from cluster.ledger.run_folder import RunFolder
from cluster.types import RewardTerms
from grader.profiles import RewardProfile
from grader.reward import score
from grader.settings import GraderSettings

COLUMNS = ("group_id", "completion_id", "total_reward", *TERMS, *FACT_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Regrading:
    """A run's graded completions under both rewards, and what is not among them."""

    completions: tuple[Regraded, ...]  # in the order of the files
    num_ungradable: int  # completions without facts
    num_groups_without_grade: int  # groups of which no completion has facts


def regrade(
    folder: RunFolder, profile: RewardProfile, on_file: Callable[[int, int], None] = lambda _done, _total: None
) -> Regrading:
    """Score all that a run has stored so far; runs nothing and changes nothing.

    ``on_file`` is called with (files read, files). Raises RunFolderError where there is nothing that could be scored.
    """
    paths = _rollout_files(folder)
    completions: list[Regraded] = []
    ungraded: list[str] = []  # group ids
    for done, path in enumerate(paths, start=1):
        for row in _rows(path):
            if row["verdict"] is None:
                ungraded.append(row["group_id"])
            else:
                completions.append(_regraded(path, row, profile))
        on_file(done, len(paths))
    if not completions:
        raise RunFolderError(f"{folder.rollouts} holds no completion that was graded: nothing to score again")
    graded = {one.group_id for one in completions}
    return Regrading(
        completions=tuple(completions),
        num_ungradable=len(ungraded),
        num_groups_without_grade=len(set(ungraded) - graded),
    )


def grader_settings_of(folder: RunFolder) -> GraderSettings:
    """What a run was told about its graders; RunFolderError where its config.yaml does not say."""
    try:
        tree = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        return GraderSettings.model_validate(tree["grader"])
    except OSError as error:
        cause = error.strerror
    except (yaml.YAMLError, ValidationError, TypeError, KeyError) as error:
        cause = str(error)
    raise RunFolderError(
        f"the run's own reward cannot be read from {folder.config} ({cause}); name a whole one, as --reward PROFILE"
    )


def steps_of_reward_changes(folder: RunFolder) -> tuple[int, ...]:
    """The steps after which phases changed how the run rewards; RunFolderError where phases.jsonl cannot be read."""
    changes = folder.rows(folder.phases, missing_ok=True)
    try:
        return tuple(change["step"] for change in changes if any(key.startswith("grader.") for key in change["set"]))
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{folder.phases} cannot be read ({error})") from None


def check_out(out: Path, folder: RunFolder) -> None:
    """Refuse, before anything is read, a file that could not be written or that belongs to the run; ConfigError."""
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {out}: the name must end in {' or '.join(SUFFIXES)}")
    place = out.resolve()
    logs = {path.resolve() for path in (folder.metrics, folder.evaluation, folder.completions, folder.breakdown)}
    if place in logs or place.parent == folder.rollouts.resolve():
        raise ConfigError(f"--out {out}: belongs to the run itself; choose another name")


def write_rewards(completions: Sequence[Regraded], out: Path) -> None:
    """Write old and new rewards and terms, one row per completion, whole or not at all; raises RunFolderError."""
    rows = [
        {
            "group_id": one.group_id,
            "completion_id": one.completion_id,
            "verdict": str(one.verdict),
            "old_reward": one.old_reward,
            "new_reward": one.new_reward,
            "old_terms": asdict(one.old_terms),
            "new_terms": asdict(one.new_terms),
        }
        for one in completions
    ]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_rows(out, rows)
    except OSError as error:
        raise RunFolderError(f"cannot write {out}: {error.strerror}") from error


def _rollout_files(folder: RunFolder) -> list[Path]:
    if not folder.path.is_dir():
        raise RunFolderError(f"{folder.path} is not the folder of a run: there is no such folder")
    paths = folder.rollout_files()
    if not paths:
        raise RunFolderError(
            f"{folder.path} holds no rollouts yet: a run writes rollouts/step-*.parquet as each of its steps ends"
        )
    return paths


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    older = (
        "an older Caravan wrote it, and what it left out cannot be had without grading again; grade its texts with "
        "`caravan grade`, or run anew"
    )
    with opened_rollouts(path, COLUMNS, if_older=older) as file:
        for batch in file.iter_batches(columns=list(COLUMNS)):
            yield from batch.to_pylist()


def _regraded(path: Path, row: Mapping[str, Any], profile: RewardProfile) -> Regraded:
    try:
        facts = facts_of(row)
    except ValueError as error:
        raise RunFolderError(f"{path}, completion {row['completion_id']}: {error}") from None
    new = score(facts, profile)
    return Regraded(
        group_id=row["group_id"],
        completion_id=row["completion_id"],
        verdict=facts.verdict,
        num_code_lines=facts.num_code_lines,
        old_reward=row["total_reward"],
        new_reward=new.reward,
        old_terms=RewardTerms(**{name: row[name] for name in TERMS}),
        new_terms=new.terms,
    )
