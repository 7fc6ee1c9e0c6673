"""``caravan regrade``: re-score the stored completions of a run under another reward, from their facts alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.analysis.regrade_statistics import Rescored
from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.files import iterate_rows
from cluster.ledger.row_files import SUFFIXES, write_rows
from cluster.ledger.rows import FACT_COLUMNS, TERMS, facts_of
from cluster.ledger.run_folder import RunFolder
from cluster.types import RewardTerms
from grader.profiles import RewardProfile
from grader.reward import score
from grader.settings import GraderSettings

COLUMNS = ("group_id", "completion_id", "total_reward", *TERMS, *FACT_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoredRun:
    """The graded completions of a run under both rewards, and the number of completions without a grade."""

    completions: tuple[Rescored, ...]  # in the order of the files
    num_ungraded: int  # completions without facts
    num_ungraded_groups: int  # groups in which every completion is ungraded


def rescore(
    folder: RunFolder, profile: RewardProfile, on_file: Callable[[int, int], None] = lambda _done, _total: None
) -> RescoredRun:
    """Re-score all completions stored so far. Runs no program and changes no file of the run.

    ``on_file`` is called with (files read, files in total). Raises RunFolderError if nothing can be re-scored.
    """
    paths = _rollout_files(folder)
    completions: list[Rescored] = []
    ungraded: list[str] = []  # group ids
    for done, path in enumerate(paths, start=1):
        for row in _read_rows(path):
            if row["verdict"] is None:
                ungraded.append(row["group_id"])
            else:
                completions.append(_rescore_row(path, row, profile))
        on_file(done, len(paths))
    if not completions:
        raise RunFolderError(f"{folder.rollouts} holds no graded completion: nothing to re-score")
    graded_groups = {completion.group_id for completion in completions}
    return RescoredRun(
        completions=tuple(completions),
        num_ungraded=len(ungraded),
        num_ungraded_groups=len(set(ungraded) - graded_groups),
    )


def grader_settings_of(folder: RunFolder) -> GraderSettings:
    """Read the grader settings of a run; raises RunFolderError if config.yaml has none or cannot be read."""
    try:
        tree = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
        return GraderSettings.model_validate(tree["grader"])
    except OSError as error:
        cause = error.strerror
    except (yaml.YAMLError, ValidationError, TypeError, KeyError) as error:
        cause = str(error)
    raise RunFolderError(
        f"the run's own reward cannot be read from {folder.config} ({cause}); name a profile, as in --reward PROFILE"
    )


def steps_of_reward_changes(folder: RunFolder) -> tuple[int, ...]:
    """Steps after which the schedule changed a grader setting; raises RunFolderError if phases.jsonl cannot be read."""
    changes = folder.rows(folder.phases, missing_ok=True)
    try:
        return tuple(change["step"] for change in changes if any(key.startswith("grader.") for key in change["set"]))
    except (KeyError, TypeError) as error:
        raise RunFolderError(f"{folder.phases} cannot be read ({error})") from None


def check_output_path(out: Path, folder: RunFolder) -> None:
    """Raise ConfigError for an output file with an unknown suffix or one that belongs to the run."""
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {out}: the name must end in {' or '.join(SUFFIXES)}")
    path = out.resolve()
    logs = {log.resolve() for log in (folder.metrics, folder.evaluation, folder.completions, folder.breakdown)}
    if path in logs or path.parent == folder.rollouts.resolve():
        raise ConfigError(f"--out {out}: this file belongs to the run; choose another name")


def write_rewards(completions: Sequence[Rescored], out: Path) -> None:
    """Write old and new rewards and terms, one row per completion, atomically; raises RunFolderError."""
    rows = [
        {
            "group_id": completion.group_id,
            "completion_id": completion.completion_id,
            "verdict": str(completion.verdict),
            "old_reward": completion.old_reward,
            "new_reward": completion.new_reward,
            "old_terms": asdict(completion.old_terms),
            "new_terms": asdict(completion.new_terms),
        }
        for completion in completions
    ]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_rows(out, rows)
    except OSError as error:
        raise RunFolderError(f"cannot write {out}: {error.strerror}") from error


def _rollout_files(folder: RunFolder) -> list[Path]:
    if not folder.path.is_dir():
        raise RunFolderError(f"{folder.path} is not a run directory: it does not exist")
    paths = folder.rollout_files()
    if not paths:
        raise RunFolderError(
            f"{folder.path} has no rollouts yet: a run writes rollouts/step-*.parquet when a step finishes"
        )
    return paths


def _read_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    hint = ": an older version of Caravan wrote the file; grade its texts with `caravan grade`, or start a new run"
    return iterate_rows(path, COLUMNS, missing_columns_hint=hint)


def _rescore_row(path: Path, row: Mapping[str, Any], profile: RewardProfile) -> Rescored:
    try:
        facts = facts_of(row)
    except ValueError as error:
        raise RunFolderError(f"{path}, completion {row['completion_id']}: {error}") from None
    if facts.num_thought_tokens is None and profile.depends_on_thoughts:
        raise RunFolderError(
            f"{path}, completion {row['completion_id']}: its thought tokens are unknown, because an older version of "
            "Caravan wrote the file; leave out thought_tokens.cap and thought_tokens.price"
        )
    new = score(facts, profile)
    return Rescored(
        group_id=row["group_id"],
        completion_id=row["completion_id"],
        verdict=facts.verdict,
        num_code_lines=facts.num_code_lines,
        old_reward=row["total_reward"],
        new_reward=new.reward,
        old_terms=RewardTerms(**{name: row[name] for name in TERMS}),
        new_terms=new.terms,
    )
