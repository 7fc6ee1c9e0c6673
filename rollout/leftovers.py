"""What a killed sampler leaves on its machine, and how the next one to start there removes it.

Every sampler keeps a folder whose lock file it holds locked for as long as it lives. The kernel takes the lock away
when the process is killed, in another container too, and the lock file then says what else there is to delete.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TextIO

FOLDER_PREFIX = "caravan-adapters-"
LOCK_NAME = ".lock"

SHARED_MEMORY = Path("/dev/shm")


def hold(folder: Path) -> TextIO:
    """Lock a folder until the returned file is closed or the process ends."""
    lock = (folder / LOCK_NAME).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def record_engine_files(lock: TextIO) -> None:
    """Note, in a lock file, the shared memory that this process and its children have mapped."""
    lock.write("\n".join(sorted(engine_files(os.getpid()))))
    lock.flush()


def engine_files(pid: int) -> Collection[str]:
    """Files of shared memory, made by Python's multiprocessing, that a process and its descendants have mapped.

    They are told by their inodes: the name that a semaphore's maker has mapped is not the one that it goes by.
    """
    import psutil

    inodes: set[int] = set()
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(OSError):  # ended meanwhile
            for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                _range, _access, _offset, _device, inode, *path = line.split(maxsplit=5)
                if path and path[0].startswith(str(SHARED_MEMORY)):
                    inodes.add(int(inode))
    return [
        str(file)
        for file in SHARED_MEMORY.iterdir()
        if file.name.startswith(("psm_", "sem.mp-")) and file.stat().st_ino in inodes
    ]


def sweep(root: Path) -> None:
    """Delete the folders below ``root`` whose samplers are gone, and the shared memory that they noted."""
    for folder in root.glob(f"{FOLDER_PREFIX}*"):
        try:
            with (folder / LOCK_NAME).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for name in lock.read().splitlines():
                    Path(name).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or somebody else's
