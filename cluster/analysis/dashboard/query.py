"""Query for completions, to and from a URL: filters, order and page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import quote, urlencode

from cluster.errors import ConfigError
from cluster.types import Outcome, Verdict

NOT_GRADED = "not_graded"
VERDICTS = (*(str(verdict) for verdict in Verdict), NOT_GRADED)
OUTCOMES = tuple(str(outcome) for outcome in Outcome)
ORDERS: Mapping[str, str] = {
    "newest": "newest first",
    "oldest": "oldest first",
    "best": "highest reward",
    "worst": "lowest reward",
    "advantage": "highest advantage",
    "disadvantage": "lowest advantage",
    "slowest": "slowest to sample and grade",
}
MAX_CODE = 1000  # characters of a text to search for


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Filters, order and page; an empty or missing value does not filter."""

    problem: str = ""  # an id, or a part of ids
    verdicts: tuple[str, ...] = ()  # any of VERDICTS
    outcomes: tuple[str, ...] = ()  # any of OUTCOMES
    min_reward: float | None = None
    max_reward: float | None = None
    min_step: float | None = None
    max_step: float | None = None
    is_low_quality: bool = False  # only completions with low-quality flags
    code: str = ""  # a part of the text
    matches_case: bool = False
    order: str = "newest"  # of ORDERS
    page: int = 1

    @classmethod
    def parse(cls, parameters: Sequence[tuple[str, str]]) -> Self:
        """Read the parameters of a URL; raises ConfigError for an invalid value."""
        values: dict[str, list[str]] = {}
        for name, value in parameters:
            if value.strip():
                values.setdefault(name, []).append(value)
        last = {name: of_name[-1] for name, of_name in values.items()}
        page = _parse_number(last, "page") or 1
        code = last.get("code", "")
        if len(code) > MAX_CODE:
            raise ConfigError(f"code: a search text has at most {MAX_CODE} characters, this one has {len(code)}")
        return cls(
            problem=last.get("problem", "").strip(),
            verdicts=_parse_choices("verdict", values.get("verdict", []), VERDICTS),
            outcomes=_parse_choices("fate", values.get("fate", []), OUTCOMES),
            min_reward=_parse_number(last, "min_reward"),
            max_reward=_parse_number(last, "max_reward"),
            min_step=_parse_number(last, "min_step"),
            max_step=_parse_number(last, "max_step"),
            is_low_quality="signs" in last,
            code=code,
            matches_case="case" in last,
            order=_parse_choices("order", [last.get("order", "newest")], tuple(ORDERS))[0],
            page=max(1, int(min(page, 1e9))),
        )

    def with_page(self, page: int) -> "Query":
        """Return the query with another page."""
        return replace(self, page=page)

    def url(self, **changes: Any) -> str:
        """Relative URL of the query with some fields changed."""
        query = replace(self, **changes)
        fields: list[tuple[str, object]] = [
            ("problem", query.problem),
            *(("verdict", verdict) for verdict in query.verdicts),
            *(("fate", outcome) for outcome in query.outcomes),
            ("min_reward", query.min_reward),
            ("max_reward", query.max_reward),
            ("min_step", query.min_step),
            ("max_step", query.max_step),
            ("signs", "1" if query.is_low_quality else ""),
            ("code", query.code),
            ("case", "1" if query.matches_case else ""),
            ("order", query.order if query.order != "newest" else ""),
            ("page", query.page if query.page > 1 else ""),
        ]
        parameters = [
            (name, f"{value:g}" if isinstance(value, float) else value)
            for name, value in fields
            if value not in ("", None)
        ]
        return f"completions?{urlencode(parameters)}" if parameters else "completions"


def group_url(group_id: str, completion_id: str = "", code: str = "") -> str:
    """Relative URL of a group, scrolled to a completion, with matches of ``code`` highlighted."""
    parameters = urlencode({"id": group_id} | ({"code": code} if code else {}))
    return f"group?{parameters}{f'#{quote(completion_id)}' if completion_id else ''}"


def _parse_number(values: Mapping[str, str], name: str) -> float | None:
    if name not in values:
        return None
    try:
        number = float(values[name])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{name}: {values[name]!r} is not a number")
    return number


def _parse_choices(name: str, values: Sequence[str], choices: Sequence[str]) -> tuple[str, ...]:
    for value in values:
        if value not in choices:
            raise ConfigError(f"{name}: {value!r} is none of {', '.join(choices)}")
    return tuple(dict.fromkeys(values))
