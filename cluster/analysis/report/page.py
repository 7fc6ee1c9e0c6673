"""The report as one self-contained HTML page: plots are embedded and it runs no script.

In addition to the escaping of ``render``, the page's Content-Security-Policy forbids scripts and external content.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.analysis.render import code_style, render
from cluster.analysis.report.run import RunReport

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

SECTION_LIMITS = {
    "num_problems": 10,  # in each table of problems
    "max_text": 4000,  # characters of a completion or of its messages
}
"""Values that the template of the sections needs."""

Plots = Mapping[str, tuple[str, bytes]]  # name -> (title, SVG)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotImage:
    """A plot as a page embeds it."""

    name: str
    title: str
    source: str  # URL
    dark_source: str = ""  # URL of the version for dark colours; empty: there is none


def report_page(runs: Sequence[tuple[RunReport, Plots]], comparison: Plots) -> str:
    """Render the page: each run with its plots, and, for several runs, the plots that compare them."""
    return render(
        "report.html",
        policy=POLICY,
        names=", ".join(report.name for report, _ in runs),
        code_style=code_style("default"),
        comparison_plots=_images(comparison),
        runs=[(report, _images(plots)) for report, plots in runs],
        **SECTION_LIMITS,
    )


def _images(plots: Plots) -> list[PlotImage]:
    return [
        PlotImage(name=name, title=title, source=f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}")
        for name, (title, svg) in plots.items()
    ]
