"""What the pool does when its actors fail: real Ray actors around a scripted sampler, without an engine."""

import asyncio
import os
from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path

import pytest

import rollout.pool
from cluster.types import (
    Completion,
    DeadlineExceeded,
    FinishReason,
    GroupRequest,
    ModelError,
    PolicyVersion,
    SamplerError,
)
from rollout.pool import RaySamplerPool
from rollout.settings import RolloutSettings

pytestmark = pytest.mark.slow

SETTINGS = RolloutSettings(cpus_per_sampler=0.5, request_deadline_seconds=20, start_deadline_seconds=60)


def first_time(mark: Path) -> bool:
    """Whether no process has passed here before."""
    is_first = not mark.exists()
    mark.touch()
    return is_first


class ScriptedActor:
    """Stands in for SamplerActor; the model's name says how it starts, a group's id how it is sampled."""

    def __init__(self, settings: RolloutSettings, model: str, lora_rank: int) -> None:
        self._model = model
        self._loaded: list[int] = []

    async def start(self) -> None:
        if self._model == "missing":
            raise ModelError("model 'missing' cannot be loaded")
        if self._model == "hangs":
            await asyncio.sleep(1000)

    async def load_policy(self, policy: PolicyVersion, live_versions: Collection[int]) -> None:
        if "mark" in policy.adapter and first_time(Path(policy.adapter["mark"].decode())):
            os._exit(1)
        self._loaded.append(policy.number)

    async def sample(
        self, request: GroupRequest, indexes: Sequence[int], policy_version: int
    ) -> AsyncGenerator[Completion]:
        fault, _, text = request.group_id.partition(":")
        for index in indexes:
            if fault == "dies" or (fault == "dies at 0" and 0 in indexes and index == 1):
                await asyncio.sleep(0.2)  # what was yielded before is on its way
                os._exit(1)
            if fault == "engine dies" and index == indexes[1]:
                raise SamplerError("the engine failed")
            if fault == "hangs" and index == 1:
                await asyncio.sleep(1000)
            yield Completion(
                id=f"c{index}",
                group_id=request.group_id,
                problem_id="p",
                index=index,
                prompt_ids=(1,),
                token_ids=(2,),
                sampler_logprobs=(-1.0,),
                text=f"{text}{os.getpid()} {self._loaded}",
                finish_reason=FinishReason.STOP,
                policy_version=policy_version,
                seconds=0.0,
            )

    async def shutdown(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _scripted(monkeypatch):
    monkeypatch.setattr(rollout.pool, "SamplerActor", ScriptedActor)


@pytest.fixture
def pool(local_ray, run):
    pool = RaySamplerPool(SETTINGS, model="fine", lora_rank=8)
    run(pool.start())
    yield pool
    run(pool.close())


async def collect(pool, request) -> list[Completion]:
    return [completion async for completion in pool.sample_group(request)]


def test_a_sampler_killed_in_the_middle_of_a_group_delivers_nothing_twice(pool, run, request_for):
    group = run(collect(pool, request_for("dies at 0:", size=4)))
    assert [completion.index for completion in group] == [0, 1, 2, 3]
    assert len({completion.text for completion in group}) == 2  # two processes


def test_a_restarted_sampler_holds_the_current_policy_before_it_is_given_work(pool, run, request_for):
    run(pool.publish(PolicyVersion(number=5, adapter={})))
    group = run(collect(pool, request_for("dies at 0:", size=3)))
    assert {completion.policy_version for completion in group} == {5}
    assert all(completion.text.endswith("[5]") for completion in group)


def test_a_sampler_that_dies_while_it_loads_a_policy_is_replaced_before_publish_returns(
    pool, run, request_for, tmp_path
):
    policy = PolicyVersion(number=1, adapter={"mark": str(tmp_path / "mark").encode()})
    run(pool.publish(policy))
    assert {completion.policy_version for completion in run(collect(pool, request_for("fine:")))} == {1}


def test_a_group_under_which_engine_after_engine_dies_is_given_up(pool, run, request_for):
    with pytest.raises(SamplerError, match="failed on 3 samplers: the engine failed"):
        run(collect(pool, request_for("engine dies:", size=6)))


def test_a_pool_whose_sampler_keeps_dying_refuses_all_work_and_says_why(pool, run, request_for):
    for group_id in ("dies:", "fine:"):
        with pytest.raises(SamplerError, match="sampler 0 died again before it had delivered anything"):
            run(collect(pool, request_for(group_id)))


def test_a_sampler_that_does_not_answer_is_named_with_its_group_and_the_setting(local_ray, run, request_for):
    settings = SETTINGS.model_copy(update={"request_deadline_seconds": 1.0})

    async def scenario():
        pool = RaySamplerPool(settings, model="fine", lora_rank=8)
        await pool.start()
        with pytest.raises(DeadlineExceeded, match=r"hangs: on sampler 0 .*1 s .*rollout.request_deadline_seconds"):
            await collect(pool, request_for("hangs:"))
        await pool.close()

    run(scenario())


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("missing", ModelError, "model 'missing' cannot be loaded"),
        ("hangs", DeadlineExceeded, "starting sampler 0 .*rollout.start_deadline_seconds.* 5 s"),
    ],
)
def test_a_pool_that_cannot_start_says_why_and_leaves_nothing(local_ray, run, model, error, message):
    settings = SETTINGS.model_copy(update={"start_deadline_seconds": 5.0 if model == "hangs" else 60.0})
    pool = RaySamplerPool(settings, model=model, lora_rank=8)
    with pytest.raises(error, match=message):
        run(pool.start())
    assert [station.actor for station in pool._stations] == [None]
