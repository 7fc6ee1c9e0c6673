"""Where the samplers of one machine keep the policies that they serve: in shared memory where the machine has it."""

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
    hold,
    is_locked,
    record_engine,
)

ROOM_BYTES = 1024**3  # several adapters of a 1.5B model; containers often give /dev/shm no more than 64 MiB
USERS_NAME = ".users"
RECORD_SECONDS = 1.0


class AdapterCache:
    """One sampler's view of a folder that all samplers of a pool on a machine share.

    The first one to want a version writes it, whole before it appears; the others find it. Each holds a version locked
    while it serves it, so that whoever lets go last deletes it, and a killed sampler holds nothing.
    """

    def __init__(self, pool_id: str, root: Path | None = None) -> None:
        """Join the samplers of a pool, and remove what killed samplers left on this machine."""
        root = root or fastest_root()
        clean_up_orphans(root)
        self.path = root / f"{FOLDER_PREFIX}{pool_id}"
        self._served: dict[int, TextIO] = {}
        with exclusive_access(self.path):
            self._lock = hold(self.path / f"{SAMPLER_PREFIX}{uuid4().hex}")

    @contextmanager
    def recording_engine(self) -> Iterator[None]:
        """Note the processes and shared memory of the engine that the block starts, for the case that this process is killed.

        They are noted as they appear, in a thread, because an engine that starts keeps the event loop; and again at the end.
        """
        started = threading.Event()

        def record() -> None:
            while not started.wait(RECORD_SECONDS):
                record_engine(self._lock)
            record_engine(self._lock)

        recorder = threading.Thread(target=record, name="leftovers", daemon=True)
        recorder.start()
        try:
            yield
        finally:
            started.set()
            recorder.join()

    def put(self, version: int, write: Callable[[Path], None]) -> Path:
        """Return the folder of a version, which ``write`` fills where it is not there yet.

        Raises ResourcesError where there is no room.
        """
        folder = self.path / f"policy-{version}"
        draft = self.path / f".policy-{version}"
        with exclusive_access(self.path):
            self._delete_unused()
            if not folder.exists():
                shutil.rmtree(draft, ignore_errors=True)  # of a sampler that was killed while it wrote
                self._write(version, draft, write)
                draft.rename(folder)
            if version not in self._served:
                self._served[version] = hold(folder / USERS_NAME, shared=True)
        return folder

    def __contains__(self, version: int) -> bool:
        """Whether this sampler holds a version."""
        return version in self._served

    def remove(self, version: int) -> None:
        """Let go of a version, which the engine must no longer know; it is deleted when nobody else serves it."""
        with exclusive_access(self.path):
            self._served.pop(version).close()
            self._delete_unused()

    def close(self) -> None:
        """Let go of everything; may be called twice."""
        if self._lock.closed:
            return
        for held in self._served.values():
            held.close()
        self._served.clear()
        with exclusive_access(self.path):
            Path(self._lock.name).unlink()
            self._lock.close()
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
                "free some room there and resume the run"
            ) from error

    def _delete_unused(self) -> None:
        for folder in self.path.glob("policy-*"):
            if not is_locked(folder / USERS_NAME):
                shutil.rmtree(folder)


def fastest_root() -> Path:
    """Return ``/dev/shm`` where it has room for adapters, else the folder for temporary files."""
    usable = os.access(SHARED_MEMORY, os.W_OK) and shutil.disk_usage(SHARED_MEMORY).free >= ROOM_BYTES
    return SHARED_MEMORY if usable else Path(tempfile.gettempdir())
