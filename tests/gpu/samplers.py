"""Samplers of the suite without Ray: one engine, with the settings of the device."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psutil
import pytest

from cluster.types import Completion, Group, GroupRequest, Problem, Prompt, Sampling
from grader.fake import grade_of
from learner.lora_settings import LoraSettings
from learner.training.targets import adapter_size
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from tests.learner.factories import TEMPERATURE
from tests.rollout.conftest import RunInLoop

PROMPT = tuple(range(40, 72))
NUM_TOKENS = 48  # of a completion, at most

MakeSampler = Callable[..., Sampler]


def targets_of(model: str, rank: int = 8) -> tuple[str, ...]:
    """Names of the modules that a learner trains, for which a run's engines have adapters."""
    return adapter_size(model, LoraSettings(r=rank)).targets


@pytest.fixture(scope="module")
def engines(device: str, request: pytest.FixtureRequest) -> None:
    """Start engines on the CPU in a third of the time."""
    if device == "cpu":
        request.getfixturevalue("quick_engines")


@pytest.fixture
def make_sampler(engines: None, run: RunInLoop, gpus: float) -> Iterator[MakeSampler]:
    """``make_sampler(model, **settings)`` -> a started sampler, which is shut down after the test."""
    samplers: list[Sampler] = []

    def make(model: str, **changes: Any) -> Sampler:
        settings = {
            "weight_sync_mode": "versions",
            "max_prompt_tokens": 64,
            "max_completion_tokens": 64,
            "enforce_eager": True,
            "kv_cache_gib": 0.25,
            "gpus_per_sampler": gpus,
            "gpu_memory_utilization": 0.3,
        }
        sampler = Sampler(
            RolloutSettings(**settings | changes),
            model=model,
            lora_rank=8,
            lora_targets=targets_of(model),
            max_staleness=1,
            pool_id=f"gpu-suite-{uuid4().hex}",
        )
        samplers.append(sampler)
        run(sampler.start())
        return sampler

    yield make
    for sampler in samplers:
        run(sampler.shutdown())


def config_of(sampler: Sampler) -> Any:
    """The configuration of a sampler's engine, as vLLM has completed it."""
    assert sampler._engine is not None
    return sampler._engine._engine.vllm_config


async def group_of(sampler: Sampler, number: int, *, size: int, version: int = 0) -> Group:
    request = GroupRequest(
        group_id=f"v{version}g{number}",
        prompt=Prompt(problem_id="p", text="", token_ids=(*PROMPT, 100 + number)),
        group_size=size,
        sampling=Sampling(temperature=TEMPERATURE, max_completion_tokens=NUM_TOKENS, stop=()),
        seed=1000 * number,
    )
    found: list[Completion] = [each async for ended in sampler.sample(request, range(size), version) for each in ended]
    found.sort(key=lambda completion: completion.index)
    grades = tuple(grade_of(index % 4 / 4) for index in range(size))
    problem = Problem(id="p", statement="", signature="", tests="")
    return Group(id=request.group_id, problem=problem, completions=tuple(found), grades=grades)


def engine_processes() -> list[psutil.Process]:
    """The engines among the descendants of this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "EngineCore" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # ended meanwhile
            continue
    return found
