"""Input and result rows of ``caravan grade``. Pure."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from cluster.thought_tags import THOUGHT_OPENING
from cluster.types import FinishReason, Grade, Problem
from grader import fields
from grader.chat_tokens import TokenKind, find_tokens
from grader.signature import split_prompt

# Spellings of other systems: OpenAI, Anthropic, Google, Cohere, Mistral, Bedrock, TGI, vLLM, SGLang, llama.cpp, Ollama, MLX.
_LENGTH = frozenset(
    {"length", "max_tokens", "max_length", "max_new_tokens", "max_output_tokens", "max_completion_tokens",
     "max_tokens_reached", "model_length", "model_context_window_exceeded", "context_length_exceeded",
     "context_window_exceeded", "error_limit", "length_limit", "length_capped", "token_limit", "limit",
     "incomplete", "truncated", "stopped_limit"}
)  # fmt: skip
# Other reasons, which need no distinction: a completion that passes its tests was complete.
_STOP = frozenset(
    {"", "none", "null", "nan", "stop", "stopped", "stop_sequence", "stop_token", "stop_string", "stop_str",
     "stopped_word", "stopped_eos", "eos", "eos_token", "eos_found", "endoftext", "end_of_text", "end_turn",
     "endturn", "end_of_turn", "eot", "finish", "finished", "finished_stopped", "complete", "completed", "success",
     "done", "end", "normal", "tool_calls", "tool_call", "tool_use", "function_call", "malformed_function_call",
     "content_filter", "content_filtered", "guardrail_intervened", "refusal", "safety", "recitation", "language",
     "blocklist", "prohibited_content", "spii", "error", "error_toxic", "abort", "aborted", "cancel", "canceled",
     "cancelled", "user_cancel", "interrupted", "timeout", "time_limit", "load", "unload", "pause_turn", "other",
     "unknown", "unspecified", "finish_reason_unspecified"}
)  # fmt: skip


MAX_TOKENS = 10_000_000
"""Largest number of tokens of a completion."""


class MalformedRow(Exception):
    """A row that cannot be graded; the message gives the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion to grade."""

    line: int  # 1 for the first line of the file
    id: str
    problem: Problem
    completion: str
    finish_reason: FinishReason
    opened_thought: str = ""  # tag of a thought that the prompt left open; empty: none
    num_tokens: int | None = None  # of the completion; None: unknown

    @property
    def token_ends(self) -> tuple[int, ...]:
        """Position in the completion where each token ends, estimated: tokens of equal length."""
        length, number = len(self.completion), self.num_tokens or 0
        return tuple(length * (index + 1) // number for index in range(number))


def parse_row(text: str, *, line: int) -> Row:
    """Parse ``{id, prompt, tests, completion[, finish_reason][, opened_thought][, num_tokens]}``; raises MalformedRow."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or a number of thousands of digits
        raise MalformedRow(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        found = f"a list of {len(row)}: write one row a line" if isinstance(row, list) else type(row).__name__
        raise MalformedRow(f"not a JSON object but {found}")
    problem_id = _id(row.get("id"))
    missing = [key for key in ("prompt", "tests", "completion") if row.get(key) is None]
    if missing:
        raise MalformedRow(f"{missing[0]} is missing")
    try:
        prompt, opened_at_its_end = _without_reply(fields.prompt_cell(row["prompt"]).prompt)
        statement, signature = split_prompt(prompt)
        tests = fields.tests(row["tests"])
        completion = row["completion"]
        if not isinstance(completion, str):  # a string is the sampled text, even if it looks like JSON
            completion = fields.answer(completion, "completion")
    except ValueError as error:
        raise MalformedRow(str(error)) from error
    finish_reason = finish_reason_of(row.get("finish_reason"))
    opened_thought = row.get("opened_thought") or ""
    if not isinstance(opened_thought, str):
        raise MalformedRow("opened_thought is not a string (the tag that the prompt ends with, such as <think>)")
    num_tokens = row.get("num_tokens")
    if num_tokens is not None and not (type(num_tokens) is int and 0 <= num_tokens <= MAX_TOKENS):
        raise MalformedRow(f"num_tokens is {num_tokens!r}: write the number of tokens of the completion")
    return Row(
        line=line,
        id=problem_id,
        problem=Problem(id=problem_id, statement=statement, signature=signature, tests=tests),
        completion=completion,
        finish_reason=finish_reason,
        opened_thought=opened_thought.strip() or opened_at_its_end,
        num_tokens=num_tokens,
    )


def _id(value: Any) -> str:
    if isinstance(value, str):
        return value  # unchanged, so that the caller finds the row by it
    try:
        return fields.identifier(value)
    except ValueError as error:
        raise MalformedRow(f"{error}; give a string or a number") from error


def _without_reply(prompt: str) -> tuple[str, str]:
    """Remove the start of the reply that a chat template adds; return the prompt and the tag of a thought opened there."""
    opened = [tag for tag in THOUGHT_OPENING.finditer(prompt) if not prompt[tag.end() :].strip()]
    turn_kinds = (TokenKind.ENDS_TEXT, TokenKind.ASSISTANT_TURN)
    turns = [token.start for token in find_tokens(prompt) if token.kind in turn_kinds]
    signature = prompt.rfind("let ", 0, opened[-1].start() if opened else len(prompt))
    ends = [start for start in turns if start > signature >= 0] + [tag.start() for tag in opened]
    return prompt[: min(ends)] if ends else prompt, opened[-1].group() if opened else ""


def finish_reason_of(value: object) -> FinishReason:
    """Read a finish reason as any known system writes it; STOP if none is given. Raises MalformedRow for other values.

    Grading only needs to know whether the completion was cut at its length limit.
    """
    if isinstance(value, dict) and "type" in value:  # {"type": "stop", "matched": 2}
        value = value["type"]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return FinishReason.STOP
    if not isinstance(value, str):
        raise MalformedRow(f"finish_reason is {value!r}: write a string or null")
    word = value.strip().lower().rpartition(".")[2].replace("-", "_").replace(" ", "_")  # FinishReason.MAX_TOKENS
    if word.removeprefix("finish_reason_") in _LENGTH:
        return FinishReason.LENGTH
    if word.removeprefix("finish_reason_") in _STOP:
        return FinishReason.STOP
    raise MalformedRow(
        f"finish_reason is {value!r}, which is unknown: write {FinishReason.LENGTH!s} if the completion was cut at its "
        f"length limit, else {FinishReason.STOP!s}"
    )


def result_row(row: Row, grade: Grade) -> dict[str, Any]:
    """Make the row that ``caravan grade`` writes."""
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
        "degenerate": list(facts.quality_flags),
        "thought_tokens": facts.num_thought_tokens,
        "seconds": {stage: round(seconds, 6) for stage, seconds in facts.seconds.items()},
    }
