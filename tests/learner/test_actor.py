"""The actor of a learner's rank, around a double of the worker."""

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.actors.gpus import VISIBLE_GPUS
from learner.actor import LearnerActor
from tests.learner.factories import plan, settings


class Worker:
    """Double that records the GPU locks held while it starts."""

    def __init__(self, *_: Any) -> None:
        pass

    def start(self) -> None:
        self.locks = sorted(file.name for file in Path(tempfile.gettempdir()).glob("caravan-*-gpu-*.lock"))


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setitem(sys.modules, "learner.worker", SimpleNamespace(LearnerWorker=Worker))
    monkeypatch.setenv(VISIBLE_GPUS, "5")

    def start(**changes: Any) -> Worker:
        actor = LearnerActor(settings(**changes), plan(tmp_path, tmp_path / "checkpoints"), 0)
        actor.start(None, None)
        worker: Worker = actor._worker
        return worker

    return start


def test_only_a_learner_on_a_gpu_sees_gpus(start: Any) -> None:
    start(gpus=1.0)
    assert os.environ[VISIBLE_GPUS] == "5"
    start()
    assert os.environ[VISIBLE_GPUS] == ""


def test_only_a_learner_on_a_gpu_waits_for_other_starts_there(start: Any) -> None:
    assert [name.partition("-gpu-")[2] for name in start(gpus=0.5).locks] == ["5.lock"]
    Path(tempfile.gettempdir(), start(gpus=0.5).locks[0]).unlink()
    assert start().locks == []
