"""``caravan report``: write the HTML page about one run or several, its Markdown summary and the plots as PNG."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from cluster.analysis.report.markdown import summary
from cluster.analysis.report.page import Plots, report_page
from cluster.analysis.report.plots import RenderedPlot, comparison_plots, run_plots
from cluster.analysis.report.run import read_report
from cluster.errors import ConfigError

PAGE, SUMMARY = "report.html", "report.md"


def write_report(runs: Sequence[Path], out: Path | None) -> Path:
    """Write the report of runs, finished or not, to a folder and return the path of the page.

    ``out`` is the folder; it defaults to RUN/report and is required for several runs. Raises RunFolderError for a run that cannot
    be read and ConfigError for ``out``.
    """
    if out is None and len(runs) > 1:
        raise ConfigError("several runs have no common folder: set the folder of the report with --out")
    out = out or runs[0] / "report"
    reports = [read_report(run) for run in runs]
    files: dict[str, bytes] = {}
    plots = [
        _split(run_plots(report.plot_data), files, prefix="" if len(reports) == 1 else f"{number}_")
        for number, report in enumerate(reports, start=1)
    ]
    comparison = _split(comparison_plots([report.plot_data for report in reports]), files) if len(reports) > 1 else {}
    html = report_page(list(zip(reports, plots, strict=True)), comparison)
    markdown = summary(reports, list(files))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
        (out / SUMMARY).write_text(markdown, encoding="utf-8", errors="replace")
        (out / PAGE).write_text(html, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot write {out} ({error.strerror}); choose another folder with --out") from None
    return out / PAGE


def _split(plots: Iterable[RenderedPlot], files: dict[str, bytes], *, prefix: str = "") -> Plots:
    """Add the PNG of each plot to ``files`` and return the SVGs for the page."""
    svgs = {}
    for name, title, image in plots:
        files[f"{prefix}{name}.png"] = image["png"]
        svgs[name] = (title, image["svg"])
    return svgs
