"""The ledger of a run, kept up with in the background: no request waits for files to be read."""

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import RunFolderError
from cluster.ledger.columns import FILES_AT_A_TIME, File, LedgerColumns, read_stored

SECONDS_BETWEEN_LOOKS = 1.0
LOOKING_SHARE = 0.05  # of a core: listing very many files takes long, and the next look waits for longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The ledger as far as it has been read."""

    version: int = 0  # one more with every change
    columns: LedgerColumns = field(default_factory=LedgerColumns)
    num_waiting: int = 0  # files that are there and not read yet
    has_looked: bool = False  # whether anything is known at all
    broken: tuple[str, ...] = ()  # what is wrong with files that cannot be read

    @property
    def is_whole(self) -> bool:
        """Whether all that was there at the last look has been read."""
        return self.has_looked and not self.num_waiting


class LedgerWatch:
    """Reads the files of a run's ledger as they come, and forgets those that go."""

    def __init__(self, folder: Path) -> None:
        """``folder`` holds ``step-*.parquet``, and may not be there yet."""
        self._folder = folder
        self._seen = Seen()
        self._broken: dict[File, str] = {}  # not tried again before they change
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="ledger", daemon=True)

    @property
    def seen(self) -> Seen:
        """What has been read so far; never changed afterwards."""
        return self._seen

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._ended.set()
        self._thread.join(timeout=5.0)

    def look(self, there: Sequence[File]) -> None:
        """Read which of these files are new, and forget those that are not among them."""
        columns, known = self._seen.columns, set(self._seen.columns.files)
        if gone := known - set(there):
            columns = columns.without_files(gone)
        self._broken = {file: why for file, why in self._broken.items() if file in set(there)}
        new = [file for file in there if file not in known and file not in self._broken]
        if (
            not new or len(new) > FILES_AT_A_TIME or not self._seen.has_looked
        ):  # else it takes no time that is worth telling
            self._tell(columns, len(new))
        for start in range(0, len(new), FILES_AT_A_TIME):
            if self._ended.is_set():
                return
            read = []
            for file in new[start : start + FILES_AT_A_TIME]:
                try:
                    read.append((file, read_stored(file.path)))
                except RunFolderError as error:
                    if file.path.exists():  # else it went away just now, which the next look will see
                        self._broken[file] = str(error)
            columns = columns.with_files(read) if read else columns
            self._tell(columns, max(0, len(new) - start - FILES_AT_A_TIME))

    def _keep_up(self) -> None:
        while not self._ended.is_set():
            began = time.thread_time()
            there = self.files()
            took = time.thread_time() - began
            self.look(there)
            self._ended.wait(max(SECONDS_BETWEEN_LOOKS, took / LOOKING_SHARE))

    def files(self) -> Sequence[File]:
        """The files that are there, oldest first."""
        try:
            with os.scandir(self._folder) as entries:
                files = [
                    File.of(entry)
                    for entry in entries
                    if entry.name.startswith("step-") and entry.name.endswith(".parquet")
                ]
        except OSError:  # not there yet, or a file went away in between: the next look will see more
            return self._seen.columns.files
        return sorted(files, key=lambda file: file.path.name)

    def _tell(self, columns: LedgerColumns, num_waiting: int) -> None:
        before, broken = self._seen, tuple(self._broken.values())
        if (columns, num_waiting, broken) != (
            before.columns,
            before.num_waiting,
            before.broken,
        ) or not before.has_looked:
            self._seen = Seen(
                version=before.version + 1, columns=columns, num_waiting=num_waiting, has_looked=True, broken=broken
            )
