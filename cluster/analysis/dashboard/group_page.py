"""The page of a group: its completions next to each other, best first, with rewards, compiler messages and programs."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cluster.analysis.dashboard.ledger_rows import Row
from cluster.analysis.dashboard.query import Query, group_url
from cluster.analysis.render import highlighted_lines, truncate

MAX_TEXT = 20_000  # characters of a program, a prompt or messages
TRUNCATED = "(* ... {} more characters *)"
TERMS = (("structural", "structure"), ("type_check", "types"), ("compile", "compiles"), ("tests", "tests"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramLine:
    """A line of a program as HTML, and the compiler's messages about it."""

    html: Markup
    messages: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One completion on the page."""

    row: Row
    name: str  # the last part of the completion id
    same_as: Row | None  # the first completion with the same text
    lines: Sequence[ProgramLine]  # empty if ``same_as`` is given
    asserts: Sequence[tuple[str, bool]]  # outcome, and whether an example in the statement covers the assert
    messages: str
    details: Sequence[str]


def group_context(
    rows: Sequence[Row], *, prompt: str, previous: str | None, following: str | None, code: str
) -> dict[str, object]:
    """Values of ``group.html`` for a group with at least one completion.

    ``previous`` and ``following`` are ids of groups of the same problem; ``code`` is the searched text, to be highlighted.
    """
    first = rows[0]
    rewards = [row["total_reward"] for row in rows if row["total_reward"] is not None]
    num_passed = sum(row["verdict"] == "passed" for row in rows)
    ranked = sorted(rows, key=lambda row: (row["total_reward"] is None, -(row["total_reward"] or 0.0)))
    return {
        "problem_id": first["problem_id"],
        "group_id": first["group_id"],
        "facts": [
            f"step {first['step']}",
            f"{len(rows)} completions, {num_passed} passed",
            f"mean reward {statistics.fmean(rewards):.3f}" if rewards else "not graded",
            f"{len({row['text'] for row in rows})} different texts",
        ],
        "problem_url": Query(problem=first["problem_id"]).url(),
        "previous_url": group_url(previous, code=code) if previous else "",
        "next_url": group_url(following, code=code) if following else "",
        "prompt": truncate(prompt, MAX_TEXT, TRUNCATED),
        "code": code,
        "cards": _cards(ranked),
        "terms": TERMS,
        "short_name": short_name,
    }


def short_name(row: Row) -> str:
    """The last part of a completion's id: "c3" of "s000012-g03-c3"."""
    return str(row["completion_id"]).rpartition("-")[2]


def _cards(rows: Sequence[Row]) -> list[Card]:
    first_with: dict[str, Row] = {}
    cards = []
    for row in rows:
        program = row["text"] or ""
        first = first_with.setdefault(program, row)
        covered = row["shown"] or ()
        cards.append(
            Card(
                row=row,
                name=short_name(row),
                same_as=None if first is row else first,
                lines=_program_lines(program, row["errors"] or ()) if first is row else (),
                asserts=[
                    (outcome, index < len(covered) and covered[index])
                    for index, outcome in enumerate(row["asserts"] or ())
                ],
                messages=truncate(row["diagnostics"] or "", MAX_TEXT, TRUNCATED),
                details=_details(row),
            )
        )
    return cards


def _program_lines(program: str, errors: Sequence[Mapping[str, object]]) -> list[ProgramLine]:
    messages: dict[int, list[str]] = {}
    for error in errors:
        messages.setdefault(int(str(error["line"])), []).append(str(error["message"]))
    lines = highlighted_lines(truncate(program, MAX_TEXT, TRUNCATED))
    return [ProgramLine(html=line, messages=messages.get(number, ())) for number, line in enumerate(lines, start=1)]


def _details(row: Row) -> list[str]:
    """Further facts about a completion, each as a short text."""
    logprobs = row["sampler_logprobs"] or ()
    spans = row["version_spans"] or ()
    versions = ", ".join(f"{span['policy_version']} ({span['num_tokens']} tokens)" for span in spans)
    details = [
        f"{row['fate']}: {row['reason']}" if row["reason"] else row["fate"],
        f"{len(row['token_ids'] or ())} tokens",
        f"{row['thought_tokens']} of them in thoughts" if row["thought_tokens"] else "",
        f"mean logprob {statistics.fmean(logprobs):.3f}" if logprobs else "",
        f"finish reason {row['finish_reason']}" if row["finish_reason"] else "",
        "no END marker" if row["has_end_marker"] is False else "",
        f"{row['type_errors']} type errors" if row["type_errors"] else "",
        f"low quality: {', '.join(row['degenerate'])}" if row["degenerate"] else "",
        f"policy {row['policy_version']}" if row["policy_version"] is not None else "",
        f"policies {versions}" if versions else "",
        f"temperature {row['temperature']:g}" if row["temperature"] is not None else "",
        f"sampled in {row['sampling_seconds']:.2f} s" if row["sampling_seconds"] is not None else "",
        f"graded in {row['grading_seconds']:.3f} s" if row["grading_seconds"] is not None else "",
    ]
    return [detail for detail in details if detail]
