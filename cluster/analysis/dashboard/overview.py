"""The report of a run, read again when the run's files have changed, within a CPU budget."""

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.analysis.dashboard.watch import LedgerWatch
from cluster.analysis.report.ledger_summary import LedgerSummary, summarize_ledger
from cluster.analysis.report.plots import Plot, available_plots, render_plot
from cluster.analysis.report.run import RunReport, read_report
from cluster.errors import RunFolderError
from cluster.ledger.columns import LedgerColumns
from cluster.ledger.run_folder import RunFolder
from learner.training.divergence import FOLDER as DIVERGED

MAX_CPU_SHARE = 0.2
"""CPU budget, as a share of one core, for reading the report of a live run while a page is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The report of a run at one time."""

    version: str  # differs whenever the content may differ
    report: RunReport | None = None  # None: no step has finished, or it cannot be read (see ``error``)
    error: str = ""
    plots: Mapping[str, Plot] = field(default_factory=dict)  # by name; those that the run has metrics for

    @property
    def last_step(self) -> int:
        """The last finished step, 0 before the first."""
        return int(self.report.history.steps[-1]["step"]) if self.report and self.report.history.steps else 0


class OverviewReader:
    """Reads the newest overview of a run and renders its plots, both cached."""

    def __init__(self, run: Path, watch: LedgerWatch) -> None:
        self._run, self._folder, self._watch = run, RunFolder(run), watch
        self._lock, self._plot_lock = threading.Lock(), threading.Lock()
        self._state: object = None  # state of the files when ``_newest`` was read
        self._newest = Overview(version="none")
        self._next_read_at = 0.0  # time.monotonic()
        self._ledger: tuple[LedgerColumns | None, LedgerSummary] = (None, LedgerSummary())
        self._plots: dict[tuple[str, bool], tuple[str, bytes]] = {}  # (name, is_dark) -> (version, SVG)

    def newest(self) -> Overview:
        """Read the overview, or return the last one if nothing changed or the CPU share is used up."""
        with self._lock:
            started = time.thread_time()
            if time.monotonic() < self._next_read_at:
                return self._newest
            state = self._file_state()
            if state != self._state:
                self._newest = self._read(hashlib.sha256(repr(state).encode()).hexdigest()[:16])
                self._state = state
                self._next_read_at = time.monotonic() + (time.thread_time() - started) / MAX_CPU_SHARE
            return self._newest

    def plot(self, name: str, *, is_dark: bool) -> bytes | None:
        """Render a plot as SVG; None for an unknown name or a run without the metrics."""
        overview = self.newest()
        with self._plot_lock:
            version, svg = self._plots.get((name, is_dark), ("", b""))
            if version == overview.version:
                return svg
            if overview.report is None or name not in overview.plots:
                return None
            svg = render_plot(overview.plots[name], overview.report.plot_data, ("svg",), is_dark=is_dark)["svg"]
            self._plots[name, is_dark] = (overview.version, svg)
        return svg

    def last_step_at(self, overview: Overview) -> float | None:
        """Unix time at which the last step finished: its own timestamp, or the modification time of the file."""
        if overview.report is None or not overview.report.history.steps:
            return None
        learned_at = overview.report.history.steps[-1].get("learned_at")
        for path in (self._folder.metrics, self._folder.learning_log):
            if learned_at is None and path.is_file():
                learned_at = path.stat().st_mtime
        return None if learned_at is None else float(learned_at)

    def _file_state(self) -> tuple[object, ...]:
        """Return a value that changes when any file of an overview changes."""
        folder = self._folder
        paths = (
            *(folder.config, folder.metrics, folder.learning_log, folder.publishes, folder.phases, folder.health),
            *(folder.evaluation, folder.summary, folder.path / DIVERGED),
        )
        ledger = self._watch.snapshot
        return (*map(_stat, paths), ledger.version if ledger.is_complete else None, ledger.has_scanned)

    def _read(self, version: str) -> Overview:
        folder, ledger = self._folder, self._watch.snapshot
        if not folder.metrics.is_file() and not folder.learning_log.is_file():
            return Overview(version=version)
        ledger_error = ""
        try:
            if ledger.is_complete and ledger.columns is not self._ledger[0]:
                self._ledger = (ledger.columns, summarize_ledger(ledger.columns))
        except RunFolderError as error:
            ledger_error = str(error)
        try:
            report = read_report(self._run, self._ledger[1])
        except RunFolderError as error:
            return Overview(version=version, error=str(error))
        plots = {plot.name: plot for plot in available_plots(report.plot_data)}
        return Overview(version=version, report=report, error=ledger_error, plots=plots)


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
