"""The folder in which one sampler keeps its adapters, in shared memory where the machine has it."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster.types import ResourcesError
from rollout.leftovers import FOLDER_PREFIX, SHARED_MEMORY, hold, record_engine_files, sweep

ROOM_BYTES = 1024**3  # several adapters of a 1.5B model; containers often give /dev/shm no more than 64 MiB


class AdapterShelf:
    """Adapter folders of one sampler: each appears whole, under a path that is never used twice.

    To be made once the engine runs: it notes the engine's shared memory for the case that this process is killed.
    """

    def __init__(self, root: Path | None = None) -> None:
        root = root or fastest_root()
        sweep(root)
        draft = Path(tempfile.mkdtemp(prefix=f".{FOLDER_PREFIX}", dir=root))
        self._lock = hold(draft)
        record_engine_files(self._lock)
        self.path = draft.rename(root / draft.name.removeprefix("."))  # from here on others see it: locked

    def put(self, version: int, files: Mapping[str, bytes]) -> Path:
        """Write the adapter of a version and return its folder, which appears under that name only when complete.

        Raises ResourcesError where there is no room.
        """
        folder = self.path / f"policy-{version}"
        draft = self.path / f".policy-{version}"
        try:
            draft.mkdir()
            for name, content in files.items():
                (draft / name).write_bytes(content)
            draft.rename(folder)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise ResourcesError(
                f"the adapter of policy {version} cannot be written to {self.path} ({error.strerror}); "
                "free some room there and resume the run"
            ) from error
        return folder

    def remove(self, version: int) -> None:
        """Delete the adapter of a version; the engine must no longer know it."""
        shutil.rmtree(self.path / f"policy-{version}")

    def close(self) -> None:
        """Delete everything; may be called twice."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def fastest_root() -> Path:
    """Return ``/dev/shm`` where it has room for adapters, else the folder for temporary files."""
    usable = os.access(SHARED_MEMORY, os.W_OK) and shutil.disk_usage(SHARED_MEMORY).free >= ROOM_BYTES
    return SHARED_MEMORY if usable else Path(tempfile.gettempdir())
