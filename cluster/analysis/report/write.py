"""``caravan report``: one page about one run or several, with a summary in Markdown and the curves as PNG beside it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cluster.analysis.report.figures import compared, pictures
from cluster.analysis.report.html import Pictures, page
from cluster.analysis.report.markdown import summary
from cluster.analysis.report.run import gather
from cluster.errors import ConfigError

PAGE, SUMMARY = "report.html", "report.md"


def write_report(runs: Sequence[Path], out: Path | None) -> Path:
    """Write the report of runs, finished or not, into a folder; returns the page.

    ``out`` is that folder; without one it is RUN/report, which several runs do not have. Raises RunFolderError for a run that
    cannot be read, and ConfigError for ``out``.
    """
    if out is None and len(runs) > 1:
        raise ConfigError("several runs have no folder in common: say with --out where their report goes")
    out = out or runs[0] / "report"
    reports = [gather(run) for run in runs]
    files: dict[str, bytes] = {}
    drawn = [
        _taken(pictures(report.drawn), files, prefix="" if len(reports) == 1 else f"{number}_")
        for number, report in enumerate(reports, start=1)
    ]
    side_by_side = _taken(compared([report.drawn for report in reports]), files) if len(reports) > 1 else {}
    html = page(list(zip(reports, drawn, strict=True)), side_by_side)
    markdown = summary(reports, list(files))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
        (out / SUMMARY).write_text(markdown, encoding="utf-8", errors="replace")
        (out / PAGE).write_text(html, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}); choose another folder with --out") from None
    return out / PAGE


def _taken(
    drawn: Iterable[tuple[str, str, Mapping[str, bytes]]], files: dict[str, bytes], *, prefix: str = ""
) -> Pictures:
    """The SVG of pictures for the page; their PNG go to ``files``."""
    found = {}
    for name, title, saved in drawn:
        files[f"{prefix}{name}.png"] = saved["png"]
        found[name] = (title, saved["svg"])
    return found
