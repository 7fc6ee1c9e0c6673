"""Background reader of a run's ledger, so that no request waits for files."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import RunFolderError
from cluster.ledger.columns import FILES_AT_A_TIME, File, LedgerColumns, read_stored

SECONDS_BETWEEN_SCANS = 1.0
MAX_LISTING_SHARE = 0.05  # share of a core: after a long listing of a large folder, the next scan waits longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The ledger as far as it has been read."""

    version: int = 0  # increases with every change
    columns: LedgerColumns = field(default_factory=LedgerColumns)
    num_pending: int = 0  # listed files that have not been read
    has_scanned: bool = False  # False before the first scan
    errors: tuple[str, ...] = ()  # one message per file that cannot be read

    @property
    def is_complete(self) -> bool:
        """True when all files of the last scan have been read."""
        return self.has_scanned and not self.num_pending


class LedgerWatch:
    """Reads new files of a run's ledger as they appear and drops those that disappear."""

    def __init__(self, folder: Path) -> None:
        """``folder`` holds ``step-*.parquet`` and may not exist yet."""
        self._folder = folder
        self._snapshot = Snapshot()
        self._errors: dict[File, str] = {}  # files that are not read again until they change
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ledger", daemon=True)

    @property
    def snapshot(self) -> Snapshot:
        """The newest snapshot, which is immutable."""
        return self._snapshot

    def start(self) -> None:
        """Start the reading thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop the reading thread."""
        self._stopped.set()
        self._thread.join(timeout=5.0)

    def update(self, listed: Sequence[File]) -> None:
        """Read the new ones of the listed files and drop the files that are no longer listed."""
        columns, known = self._snapshot.columns, set(self._snapshot.columns.files)
        if removed := known - set(listed):
            columns = columns.without_files(removed)
        self._errors = {file: error for file, error in self._errors.items() if file in set(listed)}
        new = [file for file in listed if file not in known and file not in self._errors]
        is_quick = new and len(new) <= FILES_AT_A_TIME and self._snapshot.has_scanned
        if not is_quick:
            self._set_snapshot(columns, len(new))
        for start in range(0, len(new), FILES_AT_A_TIME):
            if self._stopped.is_set():
                return
            read = []
            for file in new[start : start + FILES_AT_A_TIME]:
                try:
                    read.append((file, read_stored(file.path)))
                except RunFolderError as error:
                    if file.path.exists():  # else the next scan drops it
                        self._errors[file] = str(error)
            columns = columns.with_files(read) if read else columns
            self._set_snapshot(columns, max(0, len(new) - start - FILES_AT_A_TIME))

    def files(self) -> Sequence[File]:
        """List the files of the ledger, oldest first."""
        try:
            with os.scandir(self._folder) as entries:
                files = [
                    File.of(entry)
                    for entry in entries
                    if entry.name.startswith("step-") and entry.name.endswith(".parquet")
                ]
        except OSError:  # the folder does not exist yet, or a file was just removed: the next scan lists again
            return self._snapshot.columns.files
        return sorted(files, key=lambda file: file.path.name)

    def _watch(self) -> None:
        while not self._stopped.is_set():
            started = time.thread_time()
            listed = self.files()
            listing_seconds = time.thread_time() - started
            self.update(listed)
            self._stopped.wait(max(SECONDS_BETWEEN_SCANS, listing_seconds / MAX_LISTING_SHARE))

    def _set_snapshot(self, columns: LedgerColumns, num_pending: int) -> None:
        old, errors = self._snapshot, tuple(self._errors.values())
        is_same = (columns, num_pending, errors) == (old.columns, old.num_pending, old.errors)
        if not is_same or not old.has_scanned:
            self._snapshot = Snapshot(
                version=old.version + 1, columns=columns, num_pending=num_pending, has_scanned=True, errors=errors
            )
