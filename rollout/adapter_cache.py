"""Cache of the adapters that the samplers of one machine serve, in shared memory when the machine has enough."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from uuid import uuid4

from cluster.errors import ResourcesError
from rollout.orphans import (
    FOLDER_PREFIX,
    SAMPLER_PREFIX,
    SHARED_MEMORY,
    clean_up_orphans,
    exclusive_access,
    is_locked,
    lock_file,
    record_engine,
)

MIN_FREE_BYTES = 1024**3  # several adapters of a 1.5B model; containers often limit /dev/shm to 64 MiB
USERS_NAME = ".users"
RECORD_SECONDS = 1.0


class AdapterCache:
    """One sampler's view of a folder that all samplers of a pool on a machine share.

    The first sampler that needs a version writes it (it appears complete or not at all); the others use it. Each sampler holds a
    lock on each version that it serves. The last sampler to release a version deletes it; a killed sampler holds no lock.
    """

    def __init__(self, pool_id: str, root: Path | None = None) -> None:
        """Join the samplers of a pool, and clean up after killed samplers on this machine."""
        root = root or fastest_root()
        clean_up_orphans(root)
        self.path = root / f"{FOLDER_PREFIX}{pool_id}"
        self._version_locks: dict[int, TextIO] = {}  # of the versions that this sampler serves
        with exclusive_access(self.path):
            self._sampler_lock = lock_file(self.path / f"{SAMPLER_PREFIX}{uuid4().hex}")

    @contextmanager
    def recording_engine(self) -> Iterator[None]:
        """Record the processes and shared memory of the engine that the block starts, for the clean-up after a kill.

        A thread records them again and again, because a starting engine blocks the event loop; the last time at the block's end.
        """
        started = threading.Event()

        def record() -> None:
            while not started.wait(RECORD_SECONDS):
                record_engine(self._sampler_lock)
            record_engine(self._sampler_lock)

        recorder = threading.Thread(target=record, name="engine recorder", daemon=True)
        recorder.start()
        try:
            yield
        finally:
            started.set()
            recorder.join()

    def put(self, version: int, write: Callable[[Path], None]) -> Path:
        """Return the folder of a version; ``write`` fills it if no other sampler did.

        Raises ResourcesError when the disk or shared memory is full.
        """
        folder = self.path / f"policy-{version}"
        draft = self.path / f".policy-{version}"
        with exclusive_access(self.path):
            self._delete_unused()
            if not folder.exists():
                shutil.rmtree(draft, ignore_errors=True)  # left by a sampler that was killed while it wrote
                self._write(version, draft, write)
                draft.rename(folder)
            if version not in self._version_locks:
                self._version_locks[version] = lock_file(folder / USERS_NAME, shared=True)
        return folder

    def __contains__(self, version: int) -> bool:
        """Return True for a version that this sampler serves."""
        return version in self._version_locks

    def remove(self, version: int) -> None:
        """Release a version that the engine no longer has; it is deleted when no other sampler serves it."""
        with exclusive_access(self.path):
            self._version_locks.pop(version).close()
            self._delete_unused()

    def close(self) -> None:
        """Release all versions; may be called twice."""
        if self._sampler_lock.closed:
            return
        for lock in self._version_locks.values():
            lock.close()
        self._version_locks.clear()
        with exclusive_access(self.path):
            Path(self._sampler_lock.name).unlink()
            self._sampler_lock.close()
            self._delete_unused()
            if not list(self.path.glob(f"{SAMPLER_PREFIX}*")):
                shutil.rmtree(self.path)

    def _write(self, version: int, draft: Path, write: Callable[[Path], None]) -> None:
        try:
            draft.mkdir()
            (draft / USERS_NAME).touch()
            write(draft)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise ResourcesError(
                f"policy {version} cannot be written to {self.path} ({error.strerror or error}); "
                "free some space there and resume the run"
            ) from error

    def _delete_unused(self) -> None:
        for folder in self.path.glob("policy-*"):
            if not is_locked(folder / USERS_NAME):
                shutil.rmtree(folder)


def fastest_root() -> Path:
    """Return ``/dev/shm`` if it has space for adapters, else the folder for temporary files."""
    usable = os.access(SHARED_MEMORY, os.W_OK) and shutil.disk_usage(SHARED_MEMORY).free >= MIN_FREE_BYTES
    return SHARED_MEMORY if usable else Path(tempfile.gettempdir())
