"""Limits of the learner's GPU memory, with torch's calls to CUDA replaced."""

from types import SimpleNamespace
from typing import Any

import pytest

from learner.client import ON_GPU
from learner.plan import LearnerPlan
from learner.training.gpu_memory import CONTEXT_BYTES, limit_gpu_memory
from learner.training.model import Device
from learner.worker import LearnerWorker
from tests.learner.factories import settings

GIB = 1024**3


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Memory fractions set in torch, on a GPU of 80 GiB."""
    import torch

    found: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", found.append)
    return found


def test_torch_gets_the_share_minus_the_memory_of_the_cuda_context(fractions: list[float]) -> None:
    limit_gpu_memory(0.5)
    limit_gpu_memory(0.001)
    assert fractions == [pytest.approx((40 * GIB - CONTEXT_BYTES) / (80 * GIB)), 0.0]


@pytest.mark.parametrize(
    ("changes", "num_limits"),
    [({"gpus": 0.5, "gpu_memory_share": 0.5}, 1), ({"gpus": 1.0}, 0), ({"gpu_memory_share": 0.5}, 0)],
)
def test_the_limit_is_set_before_the_model_is_loaded(
    changes: dict[str, Any], num_limits: int, fractions: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    import torch

    class Loading(Exception):
        pass

    def load_model(*_: object, **__: object) -> None:
        assert len(fractions) == num_limits
        raise Loading

    on_gpu = changes.get("gpus", 0) > 0
    monkeypatch.setattr("learner.worker.choose_device", lambda _: Device(use_cpu=not on_gpu, dtype=torch.float32))
    monkeypatch.setattr("learner.worker.load_model", load_model)
    plan = LearnerPlan(
        model="m",
        temperature=1.0,
        max_completion_tokens=8,
        max_staleness=0,
        max_steps=1,
        seed=0,
        checkpoints_dir=tmp_path,
        probe_ids=(),
    )
    with pytest.raises(Loading):
        LearnerWorker(settings(**changes), plan).start()


def test_torch_reads_the_variable_of_its_allocator() -> None:
    from pathlib import Path

    import torch

    (name,) = ON_GPU
    header = Path(torch.__file__).parent / "include" / "c10" / "cuda" / "CUDAAllocatorConfig.h"
    assert f'get_env("{name}")' in header.read_text()
