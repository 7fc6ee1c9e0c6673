"""The rows of ``caravan grade``: what is read, what is written. Pure."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from cluster.types import FinishReason, Grade, Problem
from grader import fields
from grader.signature import split_prompt


class MalformedRow(Exception):
    """A row that cannot be graded; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion to be graded."""

    line: int  # 1 for the first line of the file
    id: str
    problem: Problem
    completion: str
    finish_reason: FinishReason
    opened_thought: str = ""  # the tag of a thought that the prompt left open; empty: none


def parse_row(text: str, *, line: int) -> Row:
    """Read ``{id, prompt, tests, completion[, finish_reason][, opened_thought]}``; MalformedRow where that is not what it is."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, or a number of thousands of digits
        raise MalformedRow(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        found = f"a list of {len(row)}: write one row a line" if isinstance(row, list) else type(row).__name__
        raise MalformedRow(f"not a JSON object but {found}")
    problem_id = _id(row.get("id"))
    missing = [key for key in ("prompt", "tests", "completion") if row.get(key) is None]
    if missing:
        raise MalformedRow(f"{missing[0]} is missing")
    try:
        statement, signature = split_prompt(fields.asked(row["prompt"]).prompt)
        tests = fields.tests(row["tests"])
        completion = row["completion"]
        if not isinstance(completion, str):  # a text is what was sampled, whatever it looks like
            completion = fields.answer(completion, "completion")
    except ValueError as error:
        raise MalformedRow(str(error)) from error
    finish_reason = row.get("finish_reason")
    if finish_reason is not None and finish_reason not in tuple(FinishReason):
        raise MalformedRow(f"finish_reason is {finish_reason!r}, not one of: {', '.join(FinishReason)}")
    opened_thought = row.get("opened_thought") or ""
    if not isinstance(opened_thought, str):
        raise MalformedRow("opened_thought is not a string (the tag that the prompt ends with, such as <think>)")
    return Row(
        line=line,
        id=problem_id,
        problem=Problem(id=problem_id, statement=statement, signature=signature, tests=tests),
        completion=completion,
        finish_reason=FinishReason(finish_reason or FinishReason.STOP),
        opened_thought=opened_thought,
    )


def _id(value: Any) -> str:
    if isinstance(value, str):
        return value  # as it is: who asked finds the row by it
    try:
        return fields.identifier(value)
    except ValueError as error:
        raise MalformedRow(f"{error}; give a string or a number") from error


def result_row(row: Row, grade: Grade) -> dict[str, Any]:
    """The row that ``caravan grade`` writes."""
    facts = grade.facts
    return {
        "id": row.id,
        "line": row.line,
        "verdict": str(facts.verdict),
        "reward": grade.reward,
        "terms": asdict(grade.terms),
        "type_errors": facts.type_errors,
        "syntax_error": facts.syntax_error,
        "tests_passed": facts.tests_passed,
        "tests_total": facts.tests_total,
        "asserts": [str(outcome) for outcome in facts.asserts],
        "errors": [asdict(error) for error in facts.errors],
        "diagnostics": facts.diagnostics,
        "has_end_marker": facts.has_end_marker,
        "hit_length_limit": facts.hit_length_limit,
        "num_code_lines": facts.num_code_lines,
        "degenerate": list(facts.degenerate),
        "seconds": {stage: round(seconds, 6) for stage, seconds in facts.seconds.items()},
    }
