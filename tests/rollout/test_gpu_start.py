"""Samplers that share a GPU start their engines one after another; the engine itself is a double."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from rollout.sampler import Sampler
from rollout.settings import RolloutSettings


class Engine:
    """Counts the engines that start at the same time."""

    num_starting = 0
    most_starting = 0

    @classmethod
    async def start(cls, *_: Any, **__: Any) -> "Engine":
        cls.num_starting += 1
        cls.most_starting = max(cls.most_starting, cls.num_starting)
        await asyncio.sleep(0.2)
        cls.num_starting -= 1
        return cls()

    def shutdown(self) -> None:
        pass


@pytest.mark.parametrize(("gpus", "most_starting"), [(0.5, 1), (0.0, 3)])
def test_engines_on_a_gpu_start_one_after_another(
    gpus: float, most_starting: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(Engine):
        pass

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr("rollout.sampler.Engine", Counted)
    monkeypatch.setattr("rollout.sampler.check_build", lambda _: None)
    pool_id = uuid4().hex
    samplers = [
        Sampler(RolloutSettings(gpus_per_sampler=gpus), model="m", lora_rank=8, max_staleness=0, pool_id=pool_id)
        for _ in range(3)
    ]

    async def start() -> None:
        await asyncio.gather(*(sampler.start() for sampler in samplers))
        await asyncio.gather(*(sampler.shutdown() for sampler in samplers))

    asyncio.run(start())
    assert Counted.most_starting == most_starting


def test_the_deadline_allows_for_the_other_samplers_of_a_gpu() -> None:
    shares = {0.0: 1, 1.0: 1, 0.5: 2, 0.33: 3, 0.45: 2}
    assert {gpus: RolloutSettings(gpus_per_sampler=gpus).num_per_gpu for gpus in shares} == shares
