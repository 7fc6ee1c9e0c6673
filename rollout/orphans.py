"""Orphans of killed samplers: engine processes and shared memory, which the next sampler on the machine cleans up.

The samplers of a pool on one machine share a folder, in which each keeps a file of its own locked while it lives. The kernel
releases the lock when the process is killed, also from another container. The file then lists what to kill and to delete: the
engine's processes, which a hung sampler cannot end itself, and the shared memory that they had mapped.
"""

import contextlib
import fcntl
import os
import shutil
import signal
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TextIO

FOLDER_PREFIX = "caravan-adapters-"
MUTEX_NAME = ".mutex"
SAMPLER_PREFIX = ".sampler-"

SHARED_MEMORY = Path("/dev/shm")


@contextlib.contextmanager
def exclusive_access(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is created if missing; waits until no other process holds it."""
    mutex = _lock_mutex(folder)
    while mutex is None:
        mutex = _lock_mutex(folder)
    with mutex:
        yield


def _lock_mutex(folder: Path) -> TextIO | None:
    """Return the folder's mutex, locked; None if the folder was deleted during the wait."""
    folder.mkdir(exist_ok=True)
    try:
        mutex = (folder / MUTEX_NAME).open("w")
        fcntl.flock(mutex, fcntl.LOCK_EX)
        if (folder / MUTEX_NAME).stat().st_ino == os.fstat(mutex.fileno()).st_ino:
            return mutex
        mutex.close()
    except FileNotFoundError:
        pass
    return None


def is_locked(file: Path) -> bool:
    """Return True while a living process holds a lock on a file, shared or exclusive."""
    with file.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def lock_file(file: Path, *, shared: bool = False) -> TextIO:
    """Lock a file, which is created if missing, until the returned handle is closed or the process ends."""
    lock = file.open("a")
    fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
    return lock


def record_engine(lock: TextIO) -> None:
    """Record, in a sampler's lock file, the descendants of this process and the shared memory that they have mapped."""
    import psutil

    lines = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # ended meanwhile
            lines.append(f"process {process.pid} {process.create_time()}\n")
    lines += [f"file {name}\n" for name in sorted(shared_memory_files(os.getpid()))]
    lock.truncate(0)
    lock.write("".join(lines))
    lock.flush()


def shared_memory_files(pid: int) -> Collection[str]:
    """Files of shared memory, created by Python's multiprocessing, that a process and its descendants have mapped.

    They are identified by inode: the name under which a process maps its own semaphore is not the name of the file.
    """
    import psutil

    inodes: set[int] = set()
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with contextlib.suppress(OSError):  # ended meanwhile
            for line in Path(f"/proc/{process.pid}/maps").read_text(errors="replace").splitlines():
                _range, _access, _offset, _device, inode, *path = line.split(maxsplit=5)
                if path and path[0].startswith(str(SHARED_MEMORY)):
                    inodes.add(int(inode))
    found = []
    for file in SHARED_MEMORY.iterdir():
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if file.name.startswith(("psm_", "sem.mp-")) and file.stat().st_ino in inodes:
                found.append(str(file))
    return found


def clean_up_orphans(root: Path) -> None:
    """Remove the processes and files of dead samplers below ``root``, and the folders without a living sampler."""
    for folder in root.glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError), exclusive_access(folder):  # of another user
            samplers = list(folder.glob(f"{SAMPLER_PREFIX}*"))
            dead = [sampler for sampler in samplers if not is_locked(sampler)]
            for sampler in dead:
                _remove_engine(sampler.read_text())
                sampler.unlink()
            if len(dead) == len(samplers):
                shutil.rmtree(folder)


def _remove_engine(record: str) -> None:
    import psutil

    for line in record.splitlines():
        kind, _, name = line.partition(" ")
        if kind == "file":
            Path(name).unlink(missing_ok=True)
        else:
            pid, create_time = name.split()
            with contextlib.suppress(psutil.Error, ProcessLookupError):  # it ended by itself
                if psutil.Process(int(pid)).create_time() == float(create_time):
                    os.kill(int(pid), signal.SIGKILL)
