"""What is asked of the completions, as an address says it: which of them, in which order, and which page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self
from urllib.parse import urlencode

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
MAX_NEEDLE = 1000  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Completions that are asked for; what is empty or None asks for nothing in particular."""

    problem: str = ""  # an id, or a part of some ids
    verdicts: tuple[str, ...] = ()  # any of VERDICTS
    outcomes: tuple[str, ...] = ()  # any of OUTCOMES
    min_reward: float | None = None
    max_reward: float | None = None
    min_step: float | None = None
    max_step: float | None = None
    has_signs: bool = False  # of an answer that is none
    code: str = ""  # what the text holds
    matches_case: bool = False
    order: str = "newest"  # of ORDERS
    page: int = 1

    @classmethod
    def of(cls, parameters: Sequence[tuple[str, str]]) -> Self:
        """The query of an address; raises ConfigError for values that it cannot have."""
        given: dict[str, list[str]] = {}
        for name, value in parameters:
            if value.strip():
                given.setdefault(name, []).append(value)
        one = {name: values[-1] for name, values in given.items()}
        page = _number(one, "page") or 1
        code = one.get("code", "")
        if len(code) > MAX_NEEDLE:
            raise ConfigError(f"code: at most {MAX_NEEDLE} characters can be searched for")
        return cls(
            problem=one.get("problem", "").strip(),
            verdicts=_known("verdict", given.get("verdict", []), VERDICTS),
            outcomes=_known("fate", given.get("fate", []), OUTCOMES),
            min_reward=_number(one, "min_reward"),
            max_reward=_number(one, "max_reward"),
            min_step=_number(one, "min_step"),
            max_step=_number(one, "max_step"),
            has_signs="signs" in one,
            code=code,
            matches_case="case" in one,
            order=_known("order", [one.get("order", "newest")], tuple(ORDERS))[0],
            page=max(1, int(min(page, 1e9))),
        )

    def of_page(self, page: int) -> "Query":
        """The same query, another page of it."""
        return replace(self, page=page)

    def address(self, **changes: Any) -> str:
        """The address of this query, or of one that differs in some fields, relative to any page."""
        asked = replace(self, **changes)
        named: list[tuple[str, object]] = [
            ("problem", asked.problem),
            *(("verdict", verdict) for verdict in asked.verdicts),
            *(("fate", outcome) for outcome in asked.outcomes),
            ("min_reward", asked.min_reward),
            ("max_reward", asked.max_reward),
            ("min_step", asked.min_step),
            ("max_step", asked.max_step),
            ("signs", "1" if asked.has_signs else ""),
            ("code", asked.code),
            ("case", "1" if asked.matches_case else ""),
            ("order", asked.order if asked.order != "newest" else ""),
            ("page", asked.page if asked.page > 1 else ""),
        ]
        told = [
            (name, f"{value:g}" if isinstance(value, float) else value)
            for name, value in named
            if value not in ("", None)
        ]
        return f"completions?{urlencode(told)}" if told else "completions"


def _number(given: Mapping[str, str], name: str) -> float | None:
    if name not in given:
        return None
    try:
        value = float(given[name])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{name}: {given[name]!r} is not a number")
    return value


def _known(name: str, values: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    for value in values:
        if value not in known:
            raise ConfigError(f"{name}: {value!r} is none of {', '.join(known)}")
    return tuple(dict.fromkeys(values))
