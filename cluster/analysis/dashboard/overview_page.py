"""The first page: the report's parts, with links into the completions."""

import statistics
from collections.abc import Sequence

from cluster.analysis.dashboard.list_page import group_address
from cluster.analysis.dashboard.overview import Overview
from cluster.analysis.dashboard.query import Query
from cluster.analysis.report.html import Names, facts, sections, text
from cluster.health.history import Row
from cluster.ledger.run_folder import is_finite

LATELY = 10  # steps

FIGURES = (
    ("reward", "mean reward", ".3f"),
    ("pass_rate", "passed all tests", ".1%"),
    ("frac_zero_std_sampled", "groups without signal", ".0%"),
    ("entropy", "entropy (nats)", ".3f"),
    ("mean_length", "tokens per completion", ".0f"),
    ("frac_truncated", "cut at the limit", ".0%"),
    ("step_seconds", "seconds per step", ".1f"),
    ("completions_per_second", "completions per second", ".1f"),
)


def overview_page(overview: Overview) -> str:
    """All about a run but its single completions."""
    if overview.run is None:
        return "<p>No step has ended yet. This page shows what there is as soon as there is something.</p>"
    run = overview.run
    pictures = "".join(
        f'<picture id="picture-{name}">'
        f'<source media="(prefers-color-scheme: dark)" srcset="picture/dark/{name}.svg?v={overview.version}">'
        f'<img alt="{text(picture.title)}" loading="lazy" width="792" height="374" '
        f'src="picture/light/{name}.svg?v={overview.version}"></picture>'
        for name, picture in overview.pictures.items()
    )
    parts = sections(run, f'<div class="pictures">{pictures}</div>' if pictures else "", NAMES)
    shown = "\n".join(f'<section id="{name}">{part}</section>' for name, part in parts)
    return f"{facts(run.facts)}{_lately(run.history.steps)}\n{shown}"


NAMES = Names(
    problem=lambda problem_id: f'<a href="{text(Query(problem=problem_id).address())}">{text(problem_id)}</a>',
    completion=lambda row: (
        f'<a href="{text(group_address(row["group_id"], row["completion_id"]))}">{text(row["completion_id"])}</a>'
    ),
)


def _lately(steps: Sequence[Row]) -> str:
    """Means of the last steps, and of those before them."""
    cells = []
    for name, label, form in FIGURES:
        values = [row[name] for row in steps[-2 * LATELY :] if is_finite(row.get(name))]
        if values:
            before = f"was {statistics.fmean(values[:-LATELY]):{form}}" if len(values) > LATELY else ""
            now = f"{statistics.fmean(values[-LATELY:]):{form}}"
            cells.append(f'<div><dt>{label}</dt><dd>{now} <span class="dim">{before}</span></dd></div>')
    title = f"means of the last {min(LATELY, len(steps))} steps, and of those before them"
    return f'<dl class="lately" title="{title}">{"".join(cells)}</dl>'
