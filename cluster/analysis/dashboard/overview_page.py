"""The first page: recent metrics and the sections of the report, with links to the completions."""

import statistics
from collections.abc import Sequence

from cluster.analysis.dashboard.ledger_rows import Row as Completion
from cluster.analysis.dashboard.overview import Overview
from cluster.analysis.dashboard.query import Query, group_url
from cluster.analysis.report.page import SECTION_LIMITS, PlotImage
from cluster.health.history import Row
from cluster.ledger.jsonl import is_finite

RECENT_STEPS = 10

METRICS = (
    ("reward", "mean reward", ".3f"),
    ("pass_rate", "passed all tests", ".1%"),
    ("frac_zero_std_sampled", "groups without signal", ".0%"),
    ("entropy", "entropy (nats)", ".3f"),
    ("mean_length", "tokens per completion", ".0f"),
    ("mean_thought_length", "of these in thoughts", ".0f"),
    ("frac_truncated", "truncated at the limit", ".0%"),
    ("step_seconds", "seconds per step", ".1f"),
    ("completions_per_second", "completions per second", ".1f"),
)


class Links:
    """URLs of problems and completions for the sections of the report."""

    def problem(self, problem_id: str) -> str:
        """The completions of a problem."""
        return Query(problem=problem_id).url()

    def completion(self, row: Completion) -> str:
        """The group of a completion, scrolled to it."""
        return group_url(row["group_id"], row["completion_id"])


def overview_context(overview: Overview) -> dict[str, object]:
    """Values of ``overview.html``."""
    report, version = overview.report, overview.version
    steps = report.history.steps if report else ()
    return {
        "report": report,
        "plots": [
            PlotImage(
                name=name,
                title=plot.title,
                source=f"picture/light/{name}.svg?v={version}",
                dark_source=f"picture/dark/{name}.svg?v={version}",
            )
            for name, plot in overview.plots.items()
        ],
        "recent": _recent_metrics(steps),
        "num_recent": min(RECENT_STEPS, len(steps)),
        "links": Links(),
        **SECTION_LIMITS,
    }


def _recent_metrics(steps: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Label of each metric, its mean over the last steps, and its mean over the steps before them, if there are any."""
    rows = []
    for name, label, spec in METRICS:
        values = [row[name] for row in steps[-2 * RECENT_STEPS :] if is_finite(row.get(name))]
        if values and (any(values) or name != "mean_thought_length"):  # a model without thoughts has no row of zeros
            before = f"{statistics.fmean(values[:-RECENT_STEPS]):{spec}}" if len(values) > RECENT_STEPS else ""
            rows.append((label, f"{statistics.fmean(values[-RECENT_STEPS:]):{spec}}", before))
    return rows
