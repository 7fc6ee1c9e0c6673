"""Rows of ``rollouts/*.parquet``: completion, facts, reward and outcome; writing, and reading of the facts."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cluster.ledger.outcomes import DroppedGroup, drops_of_dropped, drops_of_trained
from cluster.types import AssertOutcome, Drop, Facts, Grade, Group, Outcome, StepReport, Verdict

TERMS = ("structural", "type_check", "compile", "tests")

_RENAMED = {
    "shown": "covered_by_example",
    "degenerate": "quality_flags",
    "thought_tokens": "num_thought_tokens",
}  # column -> field, where the names differ
_OWN_COLUMNS = (
    "asserts",
    "shown",
    "compiled",
    "type_checked",
    "degenerate",
    "num_code_blocks",
    "has_trailing_prose",
    "thought_tokens",
)  # not in breakdown()
FACT_COLUMNS = {
    column: _RENAMED.get(column, column)
    for column in (
        "verdict",
        "type_errors",
        "syntax_error",
        "has_end_marker",
        "hit_length_limit",
        "num_code_lines",
        *_OWN_COLUMNS,
    )
}
"""Column -> field of Facts: the facts that a reward is computed from."""


def breakdown(grade: Grade) -> dict[str, Any]:
    """Return the terms of a reward and its facts as one flat row."""
    facts, terms = grade.facts, grade.terms
    return {
        "total_reward": grade.reward,
        "structural": terms.structural,
        "type_check": terms.type_check,
        "compile": terms.compile,
        "tests": terms.tests,
        "verdict": facts.verdict,
        "type_errors": facts.type_errors,
        "syntax_error": facts.syntax_error,
        "tests_passed": facts.tests_passed,
        "tests_total": facts.tests_total,
        "has_end_marker": facts.has_end_marker,
        "hit_length_limit": facts.hit_length_limit,
        "num_code_lines": facts.num_code_lines,
    }


def trained_rows(group: Group, report: StepReport) -> list[dict[str, Any]]:
    """Return one row per completion of a group in a step, as rollout_schema describes."""
    return [
        _row(group, index, report.step, drop) | {"advantage": report.advantages.get(completion.id)}
        for index, (completion, drop) in enumerate(zip(group.completions, drops_of_trained(group, report), strict=True))
    ]


def dropped_rows(dropped: DroppedGroup, step: int) -> list[dict[str, Any]]:
    """Return one row per requested completion; rows of completions that were never sampled have no tokens."""
    group, drops = dropped.group, drops_of_dropped(dropped)
    num_sampled = len(group.completions)
    sampled = {completion.index for completion in group.completions}
    missing = [index for index in range(dropped.group_size) if index not in sampled]
    return [_row(group, index, step, drop) for index, drop in enumerate(drops[:num_sampled])] + [
        {
            "step": step,
            "fate": drop.outcome,
            "reason": str(drop),
            "problem_id": group.problem.id,
            "group_id": group.id,
            "completion_id": f"{group.id}-c{index}",
            "token_ids": (),
            "sampler_logprobs": (),
            "version_spans": (),
        }
        for index, drop in zip(missing, drops[num_sampled:], strict=True)
    ]


def _row(group: Group, index: int, step: int, drop: Drop | None) -> dict[str, Any]:
    completion, grade = group.completions[index], group.grades[index]
    row: dict[str, Any] = {
        "step": step,
        "fate": drop.outcome if drop else Outcome.TRAINED,
        "reason": str(drop) if drop else "",
        "problem_id": group.problem.id,
        "group_id": group.id,
        "completion_id": completion.id,
        "policy_version": completion.policy_version,
        "version_spans": [asdict(span) for span in completion.version_spans],
        "prompt_ids": completion.prompt_ids,
        "token_ids": completion.token_ids,
        "sampler_logprobs": completion.sampler_logprobs,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "temperature": completion.temperature,
        "opened_thought": completion.opened_thought,
        "sampling_seconds": completion.seconds,
    }
    if group.timestamps:
        timestamps = group.timestamps[index]
        row |= {"asked_at": timestamps.requested, "sampled_at": timestamps.sampled, "graded_at": timestamps.graded}
    if grade:
        facts = grade.facts
        row |= breakdown(grade)
        row |= {column: getattr(facts, FACT_COLUMNS[column]) for column in _OWN_COLUMNS}
        row["errors"] = [asdict(error) for error in facts.errors]
        row["diagnostics"] = facts.diagnostics
        row["grading_seconds"] = sum(facts.seconds.values())
    return row


def rollout_schema() -> Any:
    """Return the pyarrow schema of ``rollouts/*.parquet``. docs/metrics.md describes the columns.

    Grade columns are null for a completion without a grade. A completion that was never sampled has empty tokens and nulls.
    """
    import pyarrow as pa

    text, number, real, flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
    return pa.schema(
        {
            "step": number,  # step that trained it, or step in progress when it was dropped
            "fate": text,  # cluster.types.Outcome
            "reason": text,  # cluster.types.Drop; empty: trained
            "advantage": real,  # null: not in the loss
            "problem_id": text,
            "group_id": text,
            "completion_id": text,
            "policy_version": number,  # of the last token; null: not sampled
            "version_spans": pa.list_(
                pa.struct({"policy_version": number, "num_tokens": number})
            ),  # empty: one version
            "prompt": text,  # as the chat template wrote it; prompt_ids has the begin-of-text token too
            "template_hash": text,  # digest of the prompt template as rendered for an example
            "prompt_ids": pa.list_(pa.int32()),  # [P]
            "token_ids": pa.list_(pa.int32()),  # [T]
            "sampler_logprobs": pa.list_(pa.float32()),  # [T]
            "text": text,
            "finish_reason": text,
            "temperature": real,  # sampling temperature; null: the run's
            "opened_thought": text,  # thought tag that the prompt opens and does not close
            "sampling_seconds": real,  # in the engine
            "asked_at": real,  # Unix seconds by the driver's clock, like the next two
            "sampled_at": real,
            "graded_at": real,  # null: cancelled before
            "total_reward": real,
            "structural": real,
            "type_check": real,
            "compile": real,
            "tests": real,
            "verdict": text,  # cluster.types.Verdict
            "type_errors": number,
            "syntax_error": flag,
            "tests_passed": number,
            "tests_total": number,
            "has_end_marker": flag,
            "hit_length_limit": flag,
            "num_code_lines": number,
            "asserts": pa.list_(text),  # cluster.types.AssertOutcome, in the order of the tests
            "shown": pa.list_(flag),  # per assert: covered by an example of the statement; empty: none
            "compiled": flag,
            "type_checked": flag,
            "degenerate": pa.list_(text),  # low-quality flags
            "num_code_blocks": number,
            "has_trailing_prose": flag,
            "thought_tokens": number,  # in thoughts; null: unknown
            "errors": pa.list_(pa.struct({"line": number, "message": text})),
            "diagnostics": text,
            "grading_seconds": real,
        }
    )


def facts_of(row: Mapping[str, Any]) -> Facts:
    """Return the facts in the FACT_COLUMNS of a graded row: all facts that a reward depends on.

    Raises ValueError for an unknown verdict or assert outcome.
    """
    facts = {name: row[column] for column, name in FACT_COLUMNS.items()}
    return Facts(
        **facts
        | {
            "verdict": Verdict(row["verdict"]),
            "asserts": tuple(AssertOutcome(outcome) for outcome in row["asserts"]),
            "covered_by_example": tuple(row["shown"]),
            "quality_flags": tuple(row["degenerate"]),
        }
    )
