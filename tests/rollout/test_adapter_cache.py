"""Adapter cache of the samplers of one machine, and the clean-up after killed samplers."""

import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.errors import ResourcesError
from rollout.adapter_cache import AdapterCache
from rollout.orphans import SHARED_MEMORY, clean_up_orphans, shared_memory_files
from rollout.weight_sync_modes import write_files

FILES = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}


def write(folder: Path) -> None:
    write_files(folder, FILES)


def refuse(folder: Path) -> None:
    raise AssertionError("this version is in the cache already")


def versions(cache: AdapterCache) -> list[str]:
    return sorted(path.name for path in cache.path.iterdir() if not path.name.startswith("."))


def kill(cache: AdapterCache) -> None:
    """Release a sampler's locks, as the kernel does when its process is killed."""
    for lock in (cache._sampler_lock, *cache._version_locks.values()):
        lock.close()


def test_a_version_appears_complete_and_is_deleted_by_close(tmp_path: Path) -> None:
    cache = AdapterCache("pool", tmp_path)
    folder = cache.put(3, write)
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.name in FILES} == FILES
    cache.remove(3)
    assert not folder.exists()
    cache.put(4, write)
    cache.close()
    cache.close()
    assert list(tmp_path.iterdir()) == []


def test_samplers_of_one_pool_write_a_version_once_and_the_last_one_deletes_it(tmp_path: Path) -> None:
    one, other = AdapterCache("pool", tmp_path), AdapterCache("pool", tmp_path)
    folder = one.put(1, write)
    assert other.put(1, refuse) == folder
    one.remove(1)
    assert folder.exists()
    other.remove(1)
    assert not folder.exists()
    one.put(2, write)
    one.close()
    assert other.path.exists()
    assert versions(other) == []


def test_two_pools_never_share_a_path(tmp_path: Path) -> None:
    assert AdapterCache("one", tmp_path).put(1, write) != AdapterCache("other", tmp_path).put(1, write)


def test_a_version_that_cannot_be_written_leaves_no_partial_files(tmp_path: Path) -> None:
    cache = AdapterCache("pool", tmp_path)
    with pytest.raises(ResourcesError, match="policy 1 cannot be written"):
        cache.put(1, lambda folder: write_files(folder, {"a": b"", "no/such/folder": b""}))
    assert versions(cache) == []
    assert not (cache.path / ".policy-1").exists()


def test_versions_of_a_killed_sampler_are_deleted_when_another_sampler_adds_the_next(tmp_path: Path) -> None:
    killed, alive = AdapterCache("pool", tmp_path), AdapterCache("pool", tmp_path)
    killed.put(1, write)
    killed.put(2, write)
    alive.put(2, write)
    kill(killed)
    alive.put(3, write)
    assert versions(alive) == ["policy-2", "policy-3"]


def test_folders_of_killed_pools_are_cleaned_up_and_those_in_use_are_not(tmp_path: Path) -> None:
    alive, orphan = AdapterCache("alive", tmp_path), AdapterCache("orphan", tmp_path)
    orphan.put(1, write)
    kill(orphan)
    clean_up_orphans(tmp_path)
    assert alive.path.exists()
    assert not orphan.path.exists()


def test_the_shared_memory_of_a_killed_sampler_is_cleaned_up(tmp_path: Path) -> None:
    memory = SharedMemory(create=True, size=4096)
    semaphore: Any = multiprocessing.get_context("spawn").Lock()  # keeps a name in shared memory, as vLLM's do
    files = {SHARED_MEMORY / memory.name, SHARED_MEMORY / f"sem.{semaphore._semlock.name.lstrip('/')}"}
    assert set(map(str, files)) <= set(shared_memory_files(os.getpid()))
    orphan = AdapterCache("pool", tmp_path)
    with orphan.recording_engine():
        pass
    clean_up_orphans(tmp_path)
    assert all(file.exists() for file in files)  # their owner is alive
    kill(orphan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psutil.Process, "create_time", lambda _: 0.0)  # spare this process's other children
        clean_up_orphans(tmp_path)
    assert not any(file.exists() for file in files)
    for file in files:
        file.touch()  # for Python to delete
    memory.close()
    memory.unlink()


def test_the_processes_of_a_killed_sampler_are_killed_even_when_they_hang(tmp_path: Path) -> None:
    cache = AdapterCache("pool", tmp_path)
    with cache.recording_engine():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        child.send_signal(19)  # stopped
    clean_up_orphans(tmp_path)
    assert child.poll() is None  # its sampler is alive
    kill(cache)
    clean_up_orphans(tmp_path)
    assert child.wait(timeout=120) == -9


STARTING = """
import subprocess, sys, time
from pathlib import Path
from rollout.adapter_cache import AdapterCache

with AdapterCache("pool", Path(sys.argv[1])).recording_engine():
    print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid, flush=True)
    time.sleep(60)
"""


def test_the_processes_of_a_sampler_that_is_killed_while_its_engine_starts_are_killed(tmp_path: Path) -> None:
    sampler = subprocess.Popen([sys.executable, "-c", STARTING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert sampler.stdout is not None
    engine = psutil.Process(int(sampler.stdout.readline()))
    deadline = time.monotonic() + 30
    while not any(str(engine.pid) in record.read_text() for record in tmp_path.glob("*/.sampler-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    sampler.kill()
    sampler.wait()
    clean_up_orphans(tmp_path)
    psutil.wait_procs([engine], timeout=120)
    assert not engine.is_running() or engine.status() == "zombie"


def test_a_process_with_the_pid_of_an_orphan_and_another_start_time_is_not_killed(tmp_path: Path) -> None:
    cache = AdapterCache("pool", tmp_path)
    cache._sampler_lock.write(f"process {os.getpid()} 1.5\n")
    cache._sampler_lock.flush()
    kill(cache)
    clean_up_orphans(tmp_path)
    assert not cache.path.exists()
