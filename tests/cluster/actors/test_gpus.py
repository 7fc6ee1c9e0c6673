"""Starts on one GPU come one after another, in threads and processes."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cluster.actors.gpus import VISIBLE_GPUS, exclusive_start, hidden_gpus, visible_gpus
from grader.actor import GraderActor
from grader.settings import GraderSettings


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def starts_at_once(gpus: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return True if a start on these GPUs does not wait for another start."""
    monkeypatch.setenv(VISIBLE_GPUS, gpus)
    started = threading.Event()

    def start() -> None:
        with exclusive_start():
            started.set()

    threading.Thread(target=start, daemon=True).start()
    return started.wait(0.3)


def hold(gpus: str, folder: str, holding: Connection) -> None:
    os.environ[VISIBLE_GPUS] = gpus
    import tempfile

    tempfile.tempdir = folder
    with exclusive_start():
        holding.send(True)
        signal.pause()


def test_a_start_waits_only_for_starts_that_share_a_gpu_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_GPUS, "GPU-b,MIG-a/1/0")
    with exclusive_start():
        assert starts_at_once("GPU-c,GPU-d", monkeypatch)
        assert not starts_at_once("GPU-b", monkeypatch)
        assert not starts_at_once("GPU-d,MIG-a/1/0", monkeypatch)
    assert starts_at_once("GPU-b", monkeypatch)


def test_a_killed_process_releases_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver, sender = multiprocessing.Pipe()
    holder = multiprocessing.get_context("spawn").Process(target=hold, args=("0", str(tmp_path), sender))
    holder.start()
    assert receiver.poll(60)
    assert not starts_at_once("0", monkeypatch)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert starts_at_once("0", monkeypatch)


def test_processes_with_several_gpus_lock_them_in_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_GPUS, "3,1")
    assert visible_gpus() == ["1", "3"]
    monkeypatch.setenv(VISIBLE_GPUS, "")
    assert visible_gpus() == []
    monkeypatch.delenv(VISIBLE_GPUS)
    assert visible_gpus() == ["0"]  # CUDA's default


@pytest.mark.parametrize("before", [None, "0,1"])
def test_the_driver_sees_its_gpus_again_after_hidden_gpus(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VISIBLE_GPUS, raising=False)
    if before is not None:
        monkeypatch.setenv(VISIBLE_GPUS, before)
    with hidden_gpus():
        assert os.environ[VISIBLE_GPUS] == ""
        assert visible_gpus() == []
    assert os.environ.get(VISIBLE_GPUS) == before


def test_a_grader_sees_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_GPUS, "0")
    GraderActor(GraderSettings())
    assert os.environ[VISIBLE_GPUS] == ""
