"""Locks of folders: one process at a time writes to the folder of a run or of ``caravan sft``."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import CaravanError


@contextmanager
def locked(file: Path, busy: CaravanError) -> Iterator[None]:
    """Create and lock a file during the block; raises ``busy`` if another process holds the lock, OSError for the file."""
    with file.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        yield


def is_locked(file: Path) -> bool:
    """Return True if another process holds the lock; raises OSError for a missing file."""
    with file.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
