"""Whole completions, read from the ledger's files when they are looked at."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cluster.ledger.columns import MISSING, LedgerColumns
from cluster.ledger.files import read_places

LISTED = (
    *("step", "problem_id", "group_id", "completion_id", "fate", "reason", "advantage", "total_reward", "verdict"),
    *("tests_passed", "tests_total", "text"),
)
"""What a line of a list tells of a completion."""

SHOWN = (
    *LISTED,
    *("policy_version", "version_spans", "prompt_ids", "token_ids", "sampler_logprobs", "finish_reason", "temperature"),
    *("sampling_seconds", "grading_seconds", "structural", "type_check", "compile", "tests", "type_errors"),
    *("hit_length_limit", "has_end_marker", "asserts", "shown", "degenerate", "errors", "diagnostics"),
)
"""What is told of each completion of a group that is looked at."""

Row = Mapping[str, Any]


def read_completions(columns: LedgerColumns, rows: Sequence[int], names: Sequence[str]) -> list[Row]:
    """These completions in this order; raises RunFolderError."""
    return read_places([columns.place(row) for row in rows], names)


def rows_of_group(columns: LedgerColumns, group_id: str) -> list[int]:
    """The completions of a group in the order of the ledger; empty where there is no such group."""
    code = columns.code("group_id", group_id)
    return [] if code == MISSING else np.flatnonzero(columns.codes["group_id"] == code).tolist()


def neighbours(columns: LedgerColumns, group_id: str) -> tuple[str | None, str | None]:
    """The groups of the same problem that came before and after this one."""
    rows = rows_of_group(columns, group_id)
    groups, problems = columns.codes["group_id"], columns.codes["problem_id"]
    alike = np.flatnonzero(problems == problems[rows[0]])
    in_order = list(dict.fromkeys(groups[alike].tolist()))
    place = in_order.index(columns.code("group_id", group_id))
    words = columns.words["group_id"]
    before = words[in_order[place - 1]] if place else None
    after = words[in_order[place + 1]] if place + 1 < len(in_order) else None
    return before, after


def prompt_of(run: Path, prompt_ids: Sequence[int]) -> str:
    """The prompt as the model read it; empty where the run has no checkpoint, whose tokenizer could tell."""
    files = list((run / "checkpoints").glob("checkpoint-*/tokenizer.json"))
    return str(_tokenizer(files[0]).decode(list(prompt_ids), skip_special_tokens=False)) if files and prompt_ids else ""


@lru_cache(maxsize=1)
def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))
