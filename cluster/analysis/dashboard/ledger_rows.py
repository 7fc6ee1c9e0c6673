"""Rows of the ledger for the pages, read from its files on request."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cluster.ledger.columns import MISSING, LedgerColumns
from cluster.ledger.files import read_rows

LIST_COLUMNS = (
    *("step", "problem_id", "group_id", "completion_id", "fate", "reason", "advantage", "total_reward", "verdict"),
    *("tests_passed", "tests_total", "text"),
)
"""Columns that the list of completions shows."""

GROUP_COLUMNS = (
    *LIST_COLUMNS,
    *("policy_version", "version_spans", "prompt", "token_ids", "sampler_logprobs", "finish_reason", "temperature"),
    *("sampling_seconds", "grading_seconds", "structural", "type_check", "compile", "tests", "type_errors"),
    *(
        "hit_length_limit",
        "has_end_marker",
        "asserts",
        "shown",
        "degenerate",
        "errors",
        "diagnostics",
        "thought_tokens",
    ),
)
"""Columns that the page of a group shows."""

Row = Mapping[str, Any]


def read_completions(columns: LedgerColumns, rows: Sequence[int], names: Sequence[str]) -> list[Row]:
    """Read columns of completions, in the order of ``rows``; raises RunFolderError."""
    return read_rows([columns.reference(row) for row in rows], names)


def rows_of_group(columns: LedgerColumns, group_id: str) -> list[int]:
    """Row numbers of a group's completions in ledger order; empty for an unknown group."""
    code = columns.code("group_id", group_id)
    return [] if code == MISSING else np.flatnonzero(columns.codes["group_id"] == code).tolist()


def neighbour_groups(columns: LedgerColumns, group_id: str) -> tuple[str | None, str | None]:
    """Ids of the previous and the next group of the same problem."""
    rows = rows_of_group(columns, group_id)
    groups, problems = columns.codes["group_id"], columns.codes["problem_id"]
    of_problem = np.flatnonzero(problems == problems[rows[0]])
    in_order = list(dict.fromkeys(groups[of_problem].tolist()))
    index = in_order.index(columns.code("group_id", group_id))
    group_ids = columns.words["group_id"]
    previous = group_ids[in_order[index - 1]] if index else None
    following = group_ids[in_order[index + 1]] if index + 1 < len(in_order) else None
    return previous, following
