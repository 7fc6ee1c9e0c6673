"""The list of completions: a form of filters and pages of rows that link to groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.analysis.dashboard.ledger_rows import Row
from cluster.analysis.dashboard.query import ORDERS, OUTCOMES, VERDICTS, Query, group_url
from cluster.analysis.dashboard.search import SearchResult

PAGE_ROWS = 50
MAX_PREVIEW = 160  # characters of a text in the list
MAX_SUGGESTIONS = 300  # problem ids that the form suggests


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """One line of a completion: the match of the search with the text around it, or the beginning of the text."""

    before: str
    match: str = ""
    after: str = ""


def completions_context(
    query: Query,
    result: SearchResult,
    rows: Sequence[Row],
    *,
    num_pages: int,
    verdict_counts: Mapping[str, int],
    problem_ids: Sequence[str],
) -> dict[str, object]:
    """Values of ``completions.html``; ``rows`` are those of the query's page."""
    verdicts = [(verdict, verdict_counts.get(verdict, 0)) for verdict in VERDICTS]
    return {
        "query": query,
        "result": result,
        "lines": [(row, preview(row["text"] or "", query)) for row in rows],
        "num_pages": num_pages,
        "verdicts": [(verdict, num) for verdict, num in verdicts if num or verdict in query.verdicts],
        "outcomes": OUTCOMES,
        "orders": ORDERS,
        "suggestions": problem_ids[:MAX_SUGGESTIONS],
        "group_url": group_url,
    }


def preview(program: str, query: Query) -> Preview:
    """Cut one line out of a program."""
    if not query.code:
        line = " ".join(program[: 2 * MAX_PREVIEW].split())
        return Preview(before=line[:MAX_PREVIEW])
    text, needle = (program, query.code) if query.matches_case else (program.lower(), query.code.lower())
    start = max(0, text.find(needle))
    end = start + len(query.code)
    return Preview(
        before=_one_line(program[max(0, start - MAX_PREVIEW // 3) : start]),
        match=_one_line(program[start:end]),
        after=_one_line(program[end : end + MAX_PREVIEW]),
    )


def _one_line(text: str) -> str:
    return text.replace("\n", " ⏎ ")
