"""Failures of the pool's actors: real Ray actors with a scripted sampler, without an engine."""

import asyncio
import os
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from pathlib import Path

import pytest

import cluster.actors.lifecycle
import rollout.replica
from cluster.errors import CaravanError, DeadlineExceeded, GroupFailed, ModelError, SamplerError
from cluster.types import Completion, FinishReason, GroupRequest, PolicyVersion, Usage, WeightSync
from rollout.pool import RaySamplerPool
from rollout.sampler import SampleStream
from rollout.settings import RolloutSettings
from rollout.weight_sync import Verification
from tests.rollout.conftest import MakeRequest, RunInLoop

pytestmark = pytest.mark.slow

SETTINGS = RolloutSettings(cpus_per_sampler=0.5, request_deadline_seconds=20, start_deadline_seconds=60)


def first_time(mark: Path) -> bool:
    """Return True on the first call with this file, in any process."""
    is_first = not mark.exists()
    mark.touch()
    return is_first


class ScriptedActor(SampleStream):
    """Stand-in for the sampler: the model's name sets how it starts, the group's id how it samples."""

    def __init__(self, settings: RolloutSettings, *, model: str, **_: object) -> None:
        self._model = model
        self._loaded: list[int] = []

    async def start(self) -> None:
        if self._model == "missing":
            raise ModelError("model 'missing' cannot be loaded")
        if self._model == "hangs":
            await asyncio.sleep(1000)
        if self._model.startswith("starts once:") and not first_time(Path(self._model.partition(":")[2])):
            raise ModelError("the engine does not start")

    async def load_policy(
        self, policy: PolicyVersion, live_versions: Collection[int], tolerance: float
    ) -> Verification:
        files = {name: content.decode() for name, content in policy.adapter.items()}
        if "dies once" in files and first_time(Path(files["dies once"])):
            os._exit(1)
        if "hangs once" in files and first_time(Path(files["hangs once"])):
            await asyncio.sleep(1000)
        is_bound = "never verified" not in files and not (
            "not verified once" in files and first_time(Path(files["not verified once"]))
        )
        self._loaded.append(policy.number)
        return Verification(
            policy_version=policy.number,
            gap=0.25,
            tolerance=1.0,
            missing=() if is_bound else ("model.layers.0.mlp.up_proj",),
            surplus=(),
            differing=(),
        )

    async def sample(
        self, request: GroupRequest, indexes: Sequence[int], policy_version: int
    ) -> AsyncGenerator[tuple[Completion, ...]]:
        fault, _, text = request.group_id.partition(":")
        for index in indexes:
            if fault == "dies" or (fault == "dies at 0" and 0 in indexes and index == 1):
                await asyncio.sleep(0.2)  # time for the earlier completions to arrive
                os._exit(1)
            if fault == "slow":
                await asyncio.sleep(0.2)
            if fault == "engine dies" and index == indexes[1]:
                raise SamplerError("the engine failed")
            if fault.startswith("hangs once") and index == 1 and first_time(Path(fault.split()[-1])):
                await asyncio.sleep(1000)
            if fault == "hangs" and index == 1:
                await asyncio.sleep(1000)
            completion = Completion(
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
            yield (completion,)

    async def shutdown(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout.replica, "Sampler", ScriptedActor)
    monkeypatch.setattr(cluster.actors.lifecycle, "BACK_OFF_SECONDS", (0.0, 0.1))


@pytest.fixture
def pool(local_ray: None, run: RunInLoop) -> Iterator[RaySamplerPool]:
    pool = RaySamplerPool(SETTINGS, model="fine", lora_rank=8)
    run(pool.start())
    yield pool
    run(pool.close())


async def collect(pool: RaySamplerPool, request: GroupRequest) -> list[Completion]:
    return [completion async for completion in pool.sample_group(request)]


def test_no_completion_arrives_twice_when_a_sampler_is_killed_in_the_middle_of_a_group(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest
) -> None:
    group = run(collect(pool, request_for("dies at 0:", size=4)))
    assert [completion.index for completion in group] == [0, 1, 2, 3]
    assert len({completion.text for completion in group}) == 2  # two processes


def test_a_restarted_sampler_has_the_current_policy_before_it_gets_work(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest
) -> None:
    run(pool.publish(PolicyVersion(number=5, adapter={})))
    group = run(collect(pool, request_for("dies at 0:", size=3)))
    assert {completion.policy_version for completion in group} == {5}
    assert all(completion.text.endswith("[5]") for completion in group)


def test_a_sampler_that_dies_while_it_loads_a_policy_is_replaced_before_publish_returns(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest, tmp_path: Path
) -> None:
    policy = PolicyVersion(number=1, adapter={"dies once": str(tmp_path / "mark").encode()})
    assert [swap.sampler for swap in run(pool.publish(policy))] == ["sampler 0"]
    assert {completion.policy_version for completion in run(collect(pool, request_for("fine:")))} == {1}


def test_a_sampler_that_hangs_while_it_loads_a_policy_is_replaced_too(
    local_ray: None, run: RunInLoop, request_for: MakeRequest, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"publish_deadline_seconds": 2.0})

    async def scenario() -> Sequence[WeightSync]:
        pool = RaySamplerPool(settings, model="fine", lora_rank=8)
        await pool.start()
        swaps = await pool.publish(PolicyVersion(number=1, adapter={"hangs once": str(tmp_path / "mark").encode()}))
        await pool.close()
        return swaps

    assert [swap.sampler for swap in run(scenario())] == ["sampler 0"]


def test_a_publish_returns_seconds_and_gap_of_every_sampler(local_ray: None, run: RunInLoop) -> None:
    async def scenario() -> Sequence[WeightSync]:
        pool = RaySamplerPool(SETTINGS.model_copy(update={"num_samplers": 2}), model="fine", lora_rank=8)
        await pool.start()
        swaps = await pool.publish(PolicyVersion(number=1, adapter={}))
        await pool.close()
        return swaps

    swaps = run(scenario())
    assert sorted(swap.sampler for swap in swaps) == ["sampler 0", "sampler 1"]
    assert all(swap.gap == 0.25 and 0 < swap.seconds < 10 for swap in swaps)


def test_a_sampler_that_fails_verification_is_restarted_and_then_serves_the_policy(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest, tmp_path: Path
) -> None:
    before = run(collect(pool, request_for("fine:", size=1)))[0].text.split()[0]
    run(pool.publish(PolicyVersion(number=1, adapter={"not verified once": str(tmp_path / "mark").encode()})))
    after = run(collect(pool, request_for("fine:", size=1)))[0]
    assert after.policy_version == 1
    assert after.text.split()[0] != before  # another process


def test_a_sampler_that_fails_verification_after_its_restart_too_fails_the_pool(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest
) -> None:
    message = r"sampler 0 does not serve policy 1: 1 trained modules are not bound \(model.layers.0.mlp.up_proj\)"
    with pytest.raises(ModelError, match=message):
        run(pool.publish(PolicyVersion(number=1, adapter={"never verified": b""})))
    with pytest.raises(ModelError, match=message):
        run(collect(pool, request_for("fine:")))


def test_a_group_on_which_every_engine_dies_fails_alone(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest
) -> None:
    with pytest.raises(
        GroupFailed, match="failed on 3 samplers, on the last one without other groups: the engine failed"
    ):
        run(collect(pool, request_for("engine dies:", size=6)))
    assert len(run(collect(pool, request_for("fine:")))) == 4


def test_a_group_next_to_one_that_kills_every_sampler_is_completed(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest
) -> None:
    async def scenario() -> list[Completion]:
        deadly = asyncio.create_task(collect(pool, request_for("dies:")))
        innocent = await collect(pool, request_for("slow:", size=4))
        with pytest.raises(GroupFailed):
            await deadly
        return innocent

    assert sorted(completion.index for completion in run(scenario())) == [0, 1, 2, 3]


def test_a_pool_whose_only_sampler_keeps_crashing_fails_with_the_cause(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest
) -> None:
    with pytest.raises(GroupFailed):
        run(collect(pool, request_for("dies:")))
    with pytest.raises(GroupFailed):
        run(collect(pool, request_for("dies:")))
    with pytest.raises(
        SamplerError, match="sampler 0 crashed 6 times in a row without output, and no other sampler is left"
    ):
        run(collect(pool, request_for("fine:")))


def test_a_sampler_that_hangs_is_replaced_and_its_group_completed_once(
    local_ray: None, run: RunInLoop, request_for: MakeRequest, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"request_deadline_seconds": 2.0})

    async def scenario() -> list[Completion]:
        pool = RaySamplerPool(settings, model="fine", lora_rank=8)
        await pool.start()
        await pool.publish(PolicyVersion(number=1, adapter={}))
        group = await collect(pool, request_for(f"hangs once {tmp_path / 'mark'}:"))
        with pytest.raises(GroupFailed, match=r"hangs: on sampler 0 .*2 s .*rollout.request_deadline_seconds"):
            await collect(pool, request_for("hangs:"))
        await pool.close()
        return group

    group = run(scenario())
    assert [completion.index for completion in group] == [0, 1, 2, 3]
    assert {completion.policy_version for completion in group} == {1}


def test_a_pool_whose_only_sampler_cannot_be_restarted_fails_with_the_number_of_attempts(
    local_ray: None, run: RunInLoop, request_for: MakeRequest, tmp_path: Path
) -> None:
    async def scenario() -> None:
        pool = RaySamplerPool(SETTINGS, model=f"starts once:{tmp_path / 'mark'}", lora_rank=8)
        await pool.start()
        message = (
            r"no sampler is left: sampler 0 has been down for \d+ s with 3 failed starts; .*the engine does not start"
        )
        with pytest.raises(SamplerError, match=message):
            await collect(pool, request_for("dies:"))
        await pool.close()

    run(scenario())


def test_usage_counts_ready_samplers_and_busy_seconds(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest
) -> None:
    async def scenario() -> tuple[Usage, Usage, Usage]:
        before = pool.usage()
        async for _ in pool.sample_group(request_for("slow:", size=4)):
            during = pool.usage()
        return before, during, pool.usage()

    before, during, after = run(scenario())
    assert (before.num_replicas, before.num_running, before.busy_seconds) == (1, 0, 0.0)
    assert during.num_replicas == 1
    assert after.num_running == 0
    assert after.busy_seconds >= 0.8


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("missing", ModelError, "model 'missing' cannot be loaded"),
        ("hangs", DeadlineExceeded, r"starting sampler 0 .* 5 s \(rollout.start_deadline_seconds\)"),
    ],
)
def test_a_pool_that_cannot_start_raises_the_cause_and_leaves_no_actor(
    local_ray: None, run: RunInLoop, model: str, error: type[CaravanError], message: str
) -> None:
    settings = SETTINGS.model_copy(update={"start_deadline_seconds": 5.0 if model == "hangs" else 60.0})
    pool = RaySamplerPool(settings, model=model, lora_rank=8)
    with pytest.raises(error, match=message):
        run(pool.start())
    assert [replica.actor for replica in pool._lifecycle.replicas] == [None]
