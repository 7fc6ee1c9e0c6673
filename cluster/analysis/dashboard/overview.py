"""The report of a run, kept up with: gathered again when something has changed, and no more often than that is cheap."""

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cluster.analysis.dashboard.watch import LedgerWatch
from cluster.analysis.report.figures import Picture, draw, drawable
from cluster.analysis.report.ledger import Ledger, ledger_of
from cluster.analysis.report.run import RunReport, gather
from cluster.errors import RunFolderError
from cluster.ledger.columns import LedgerColumns
from cluster.ledger.run_folder import RunFolder
from learner.training.divergence import FOLDER as DIVERGED

WORK_SHARE = 0.2
"""Of a core, at most, for gathering anew while a run goes on and somebody looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A run as it was lately."""

    version: str  # another one where anything differs
    run: RunReport | None = None  # None: there is no step yet, or what is wrong stands in ``trouble``
    trouble: str = ""
    pictures: Mapping[str, Picture] = field(default_factory=dict)  # by name; those that there are figures for

    @property
    def last_step(self) -> int:
        """The last step that ended, 0 before the first."""
        return int(self.run.history.steps[-1]["step"]) if self.run and self.run.history.steps else 0


class Overviews:
    """Gives the newest overview of a run's folder, and draws its pictures."""

    def __init__(self, run: Path, watch: LedgerWatch) -> None:
        self._run, self._folder, self._watch = run, RunFolder(run), watch
        self._lock, self._drawing = threading.Lock(), threading.Lock()
        self._known: object = None
        self._newest = Overview(version="none")
        self._not_before = 0.0  # time.monotonic()
        self._ledger: tuple[LedgerColumns | None, Ledger] = (None, Ledger(num_completions=0, num_graded=0))
        self._drawn: dict[tuple[str, bool], tuple[str, bytes]] = {}  # by name and darkness: version and SVG

    def newest(self) -> Overview:
        """As the folder is now, or was when it last could be looked through."""
        with self._lock:
            began = time.thread_time()
            if time.monotonic() < self._not_before:
                return self._newest
            state = self._state()
            if state != self._known:
                self._newest = self._gathered(hashlib.sha256(repr(state).encode()).hexdigest()[:16])
                self._known = state
                self._not_before = time.monotonic() + (time.thread_time() - began) / WORK_SHARE
            return self._newest

    def picture(self, name: str, *, is_dark: bool) -> bytes | None:
        """A picture as SVG; None where the run has no figures for it."""
        overview = self.newest()
        with self._drawing:
            version, svg = self._drawn.get((name, is_dark), ("", b""))
            if version == overview.version:
                return svg
            if overview.run is None or name not in overview.pictures:
                return None
            svg = draw(overview.pictures[name], overview.run.drawn, ("svg",), is_dark=is_dark)["svg"]
            self._drawn[name, is_dark] = (overview.version, svg)
        return svg

    def stepped_at(self, overview: Overview) -> float | None:
        """When the last step ended, Unix seconds; by the file where the step does not say it."""
        if overview.run is None or not overview.run.history.steps:
            return None
        learned_at = overview.run.history.steps[-1].get("learned_at")
        for path in (self._folder.metrics, self._folder.learning_log):
            if learned_at is None and path.is_file():
                learned_at = path.stat().st_mtime
        return None if learned_at is None else float(learned_at)

    def _state(self) -> tuple[object, ...]:
        """What an overview depends on."""
        folder = self._folder
        paths = (
            *(folder.config, folder.metrics, folder.learning_log, folder.publishes, folder.phases, folder.health),
            *(folder.evaluation, folder.summary, folder.path / DIVERGED),
        )
        seen = self._watch.seen
        return (*map(_state_of, paths), seen.version if seen.is_whole else None, seen.has_looked)

    def _gathered(self, version: str) -> Overview:
        folder, seen = self._folder, self._watch.seen
        if not folder.metrics.is_file() and not folder.learning_log.is_file():
            return Overview(version=version)
        trouble = ""
        try:
            if seen.is_whole and seen.columns is not self._ledger[0]:
                self._ledger = (seen.columns, ledger_of(seen.columns))
        except RunFolderError as error:
            trouble = str(error)
        try:
            run = gather(self._run, self._ledger[1])
        except RunFolderError as error:
            return Overview(version=version, trouble=str(error))
        pictures = {picture.name: picture for picture in drawable(run.drawn)}
        return Overview(version=version, run=run, trouble=trouble, pictures=pictures)


def _state_of(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
