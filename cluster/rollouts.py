"""The rows of ``rollouts/*.parquet``: a completion, its facts, its reward and its fate; and the facts back from a row."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cluster.types import AssertOutcome, Completion, Facts, Fate, Grade, Group, Problem, Verdict

# Columns that hold a fact as it is, beside those of breakdown().
FURTHER_FACTS = (
    "asserts",
    "shown",
    "compiled",
    "type_checked",
    "degenerate",
    "num_code_blocks",
    "has_trailing_prose",
)
TERMS = ("structural", "type_check", "compile", "tests")
FACT_COLUMNS = (
    "verdict",
    "type_errors",
    "syntax_error",
    "has_end_marker",
    "hit_length_limit",
    "num_code_lines",
    *FURTHER_FACTS,
)


def breakdown(grade: Grade) -> dict[str, Any]:
    """The parts of a reward and the facts behind them, as one flat row."""
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


def rollout_rows(group: Group, step: int, fate: Fate, reason: str) -> list[dict[str, Any]]:
    """One row per completion of a group, as rollout_schema describes."""
    return [
        _rollout_row(
            group.problem, completion, grade, step, fate if grade else Fate.FAILED, reason if grade else "ungradable"
        )
        for completion, grade in zip(group.completions, group.grades, strict=True)
    ]


def _rollout_row(
    problem: Problem, completion: Completion, grade: Grade | None, step: int, fate: Fate, reason: str
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "step": step,
        "fate": fate,
        "reason": reason,
        "problem_id": problem.id,
        "group_id": completion.group_id,
        "completion_id": completion.id,
        "policy_version": completion.policy_version,
        "prompt_ids": completion.prompt_ids,
        "token_ids": completion.token_ids,
        "sampler_logprobs": completion.sampler_logprobs,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "sampling_seconds": completion.seconds,
    }
    if grade:
        facts = grade.facts
        row |= breakdown(grade)
        row |= {name: getattr(facts, name) for name in FURTHER_FACTS}
        row["errors"] = [asdict(error) for error in facts.errors]
        row["diagnostics"] = facts.diagnostics
        row["grading_seconds"] = sum(facts.seconds.values())
    return row


def rollout_schema() -> Any:
    """The pyarrow schema of ``rollouts/*.parquet``; grade columns are null where a completion could not be graded."""
    import pyarrow as pa

    text, number, real, flag = pa.string(), pa.int64(), pa.float64(), pa.bool_()
    return pa.schema(
        {
            "step": number,  # the step that trained it, or the step under way when it was dropped
            "fate": text,  # cluster.types.Fate
            "reason": text,  # why it was not trained; empty where it was
            "problem_id": text,
            "group_id": text,
            "completion_id": text,
            "policy_version": number,
            "prompt_ids": pa.list_(pa.int32()),  # [P]
            "token_ids": pa.list_(pa.int32()),  # [T]
            "sampler_logprobs": pa.list_(pa.float32()),  # [T]
            "text": text,
            "finish_reason": text,
            "sampling_seconds": real,
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
            "shown": pa.list_(flag),  # per assert, whether the statement gives it away; empty: none
            "compiled": flag,
            "type_checked": flag,
            "degenerate": pa.list_(text),  # signs of an answer that is none
            "num_code_blocks": number,
            "has_trailing_prose": flag,
            "errors": pa.list_(pa.struct({"line": number, "message": text})),
            "diagnostics": text,
            "grading_seconds": real,
        }
    )


def facts_of(row: Mapping[str, Any]) -> Facts:
    """The facts that FACT_COLUMNS of a graded row hold: all that a reward depends on, without errors and diagnostics.

    Raises ValueError for a verdict or an outcome that does not exist.
    """
    facts = {name: row[name] for name in FACT_COLUMNS}
    return Facts(
        **facts
        | {
            "verdict": Verdict(row["verdict"]),
            "asserts": tuple(AssertOutcome(outcome) for outcome in row["asserts"]),
            "shown": tuple(row["shown"]),
            "degenerate": tuple(row["degenerate"]),
        }
    )
