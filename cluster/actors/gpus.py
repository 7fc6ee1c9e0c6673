"""GPUs of a process: processes that reserve none see none, and processes on the same GPU start one after another.

Ray leaves the GPUs of a machine visible to an actor that reserves none. Libraries then use the first, for example to pin memory.

vLLM measures the free memory of its GPU while an engine starts, and attributes every change to this engine. Two engines that
start together on one GPU, or an engine and the learner, would therefore get too small a KV cache or run out of memory.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """Ids of the GPUs that this process uses, as Ray has set them: indexes or UUIDs, the same in all processes of a machine."""
    return sorted(filter(None, os.environ.get(VISIBLE_GPUS, "0").split(",")))


def hide_gpus() -> None:
    """Let this process, and those that it starts, see no GPU; to be called before anything initializes CUDA."""
    os.environ[VISIBLE_GPUS] = ""


@contextmanager
def hidden_gpus() -> Iterator[None]:
    """Hide the GPUs from this process during the block."""
    before = os.environ.get(VISIBLE_GPUS)
    hide_gpus()
    try:
        yield
    finally:
        del os.environ[VISIBLE_GPUS]
        if before is not None:
            os.environ[VISIBLE_GPUS] = before


@contextmanager
def exclusive_start() -> Iterator[None]:
    """Hold the lock of each GPU of this process during the block; waits until no other process of the user starts there.

    The kernel releases the locks of a killed process. GPUs are locked in one order, so that processes with several of them never
    wait for each other.
    """
    with ExitStack() as locks:
        for gpu in visible_gpus():
            lock = locks.enter_context(_lock_file(gpu).open("a"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lock_file(gpu: str) -> Path:
    # Other users' files cannot be opened; the ids of parts of a GPU (MIG) may contain slashes.
    return Path(tempfile.gettempdir()) / f"caravan-{os.getuid()}-gpu-{gpu.replace('/', '-')}.lock"
