"""Training batches read back from the ledger of rollouts."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import RunFolderError
from cluster.ledger.files import iterate_rows
from cluster.ledger.rows import FACT_COLUMNS, TERMS, facts_of
from cluster.ledger.run_folder import RunFolder
from cluster.types import (
    Completion,
    FinishReason,
    Grade,
    Group,
    Outcome,
    Problem,
    RewardTerms,
    VersionSpan,
)
from learner.batch.selection import EXCLUDED_BY_SETTINGS

COLUMNS = (
    "fate",
    "reason",
    "problem_id",
    "group_id",
    "completion_id",
    "policy_version",
    "version_spans",
    "prompt_ids",
    "token_ids",
    "sampler_logprobs",
    "text",
    "finish_reason",
    "temperature",
    "sampling_seconds",
    "total_reward",
    *TERMS,
    *FACT_COLUMNS,
)
Row = Mapping[str, Any]


def batch_of(folder: RunFolder, step: int) -> tuple[Group, ...]:
    """Return the groups in the batch of a training step, in order. Their problems have only an id.

    A group was in the batch if at least one of its completions was trained, or excluded by the learner's settings. Its other
    completions (ungradable ones, for example) are returned as well. Raises RunFolderError if the ledger has no such group.
    """
    rows_of_group: dict[str, list[Row]] = {}
    for path in folder.rollout_files(step):
        for row in _rows(path):
            rows_of_group.setdefault(row["group_id"], []).append(row)
    groups = tuple(
        _group(group_id, rows)
        for group_id, rows in rows_of_group.items()
        if any(row["fate"] == Outcome.TRAINED or row["reason"] in EXCLUDED_BY_SETTINGS for row in rows)
    )
    if not groups:
        raise RunFolderError(
            f"{folder.rollouts} holds no completion of the batch of step {step}: without it, no later step can be replayed"
        )
    return groups


def _rows(path: Path) -> Iterator[Row]:
    return iterate_rows(
        path,
        COLUMNS,
        missing_columns_hint=": an older version wrote it; start the run again",
        unreadable_hint=", and its step cannot be replayed",
    )


def _group(group_id: str, rows: list[Row]) -> Group:
    return Group(
        id=group_id,
        problem=Problem(id=rows[0]["problem_id"], statement="", signature="", tests=""),
        completions=tuple(map(_completion, rows)),
        grades=tuple(map(_grade, rows)),
    )


def _completion(row: Row) -> Completion:
    return Completion(
        id=row["completion_id"],
        group_id=row["group_id"],
        problem_id=row["problem_id"],
        index=int(row["completion_id"].rpartition("-c")[2]),
        prompt_ids=tuple(row["prompt_ids"]),
        token_ids=tuple(row["token_ids"]),
        # The ledger has them in float32, the precision of vLLM and of the learner.
        sampler_logprobs=tuple(row["sampler_logprobs"]),
        text=row["text"],
        finish_reason=FinishReason(row["finish_reason"]),
        policy_version=row["policy_version"],
        version_spans=tuple(VersionSpan(**span) for span in row["version_spans"]),
        seconds=row["sampling_seconds"],
        temperature=row["temperature"],
    )


def _grade(row: Row) -> Grade | None:
    if row["verdict"] is None:
        return None
    return Grade(
        facts=facts_of(row), terms=RewardTerms(**{name: row[name] for name in TERMS}), reward=row["total_reward"]
    )
