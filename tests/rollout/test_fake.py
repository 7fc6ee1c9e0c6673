import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from cluster.errors import GroupFailed, SamplerError
from cluster.protocols import SamplerPool
from cluster.types import Completion, FinishReason, GroupRequest, PolicyVersion, Prompt, Sampling
from rollout.fake import FakeSamplerPool


def request(size: int = 3, tokens: int = 100) -> GroupRequest:
    return GroupRequest(
        group_id="g",
        prompt=Prompt(problem_id="p", text="?", token_ids=(1, 2)),
        group_size=size,
        sampling=Sampling(temperature=1.0, max_completion_tokens=tokens),
        seed=0,
    )


async def collect(pool: SamplerPool, group_request: GroupRequest) -> list[Completion]:
    return await collect_from(pool.sample_group(group_request))


async def collect_from(completions: AsyncIterator[Completion]) -> list[Completion]:
    return [completion async for completion in completions]


def test_the_fake_samples_the_texts_of_its_function() -> None:
    pool = FakeSamplerPool(lambda group_request, index, version: f"{group_request.group_id}{index}v{version}")
    completions = asyncio.run(collect(pool, request()))
    assert [c.text for c in completions] == ["g0v0", "g1v0", "g2v0"]
    assert all(len(c.token_ids) == len(c.sampler_logprobs) == 4 for c in completions)
    assert all(c.finish_reason is FinishReason.STOP for c in completions)


def test_the_fake_ends_completions_in_the_order_of_their_delays() -> None:
    pool = FakeSamplerPool(lambda *_: "x", delay_seconds=lambda _, index: 0.03 - 0.01 * index)
    assert [c.index for c in asyncio.run(collect(pool, request()))] == [2, 1, 0]


def test_the_fake_truncates_at_the_length_limit() -> None:
    (completion,) = asyncio.run(collect(FakeSamplerPool(lambda *_: "abcdef"), request(size=1, tokens=4)))
    assert (completion.text, completion.finish_reason) == ("abcd", FinishReason.LENGTH)


def test_a_group_of_the_fake_keeps_its_version() -> None:
    async def scenario() -> None:
        pool = FakeSamplerPool(lambda _asked, _index, version: str(version))
        running = pool.sample_group(request())
        first = await anext(running)
        await pool.publish(PolicyVersion(number=1, adapter={}))
        assert [first.text, *[c.text async for c in running]] == ["0", "0", "0"]
        assert [c.policy_version for c in await collect(pool, request())] == [1, 1, 1]
        with pytest.raises(SamplerError, match="comes after"):
            await pool.publish(PolicyVersion(number=1, adapter={}))

    asyncio.run(scenario())


def test_a_closed_fake_refuses_groups() -> None:
    async def scenario() -> None:
        pool = FakeSamplerPool(lambda *_: "x")
        await pool.close()
        await pool.close()
        with pytest.raises(SamplerError, match="closed"):
            await collect(pool, request())

    asyncio.run(scenario())


def test_the_fakes_samplers_respect_their_limit_and_other_groups_wait() -> None:
    async def scenario() -> None:
        pool = FakeSamplerPool(lambda *_: "x", delay_seconds=lambda *_: 0.05, num_samplers=2, max_concurrent_requests=3)
        begun = []
        groups = [
            asyncio.create_task(collect_from(pool.sample_group(request(), lambda version: begun.append(version))))
            for _ in range(3)
        ]
        await asyncio.sleep(0.02)
        usage = pool.usage()
        assert (usage.num_replicas, usage.num_running, usage.num_waiting, begun) == (2, 6, 3, [0, 0])
        await asyncio.gather(*groups)
        usage = pool.usage()
        assert (usage.num_running, usage.num_waiting, len(begun)) == (0, 0, 3)
        assert usage.busy_seconds >= 0.15

    asyncio.run(scenario())


def test_a_group_that_fails_frees_its_slots() -> None:
    async def scenario() -> None:
        pool = FakeSamplerPool(
            lambda *_: "x", fails=lambda group_request: group_request.seed == 1, max_concurrent_requests=1
        )
        with pytest.raises(GroupFailed):
            await collect(pool, replace(request(), seed=1))
        assert len(await collect(pool, request())) == 3

    asyncio.run(scenario())


def test_a_completion_during_a_publish_has_version_spans() -> None:
    async def scenario() -> None:
        pool = FakeSamplerPool(lambda *_: "x" * 100, delay_seconds=lambda *_: 0.2, in_flight=True)
        running = asyncio.create_task(collect(pool, request(size=1, tokens=200)))
        await asyncio.sleep(0.1)
        await pool.publish(PolicyVersion(number=1, adapter={}))
        (completion,) = await running
        assert completion.policy_version == 1
        assert [span.policy_version for span in completion.version_spans] == [0, 1]
        assert len(completion.token_versions) == 100
        assert 20 < completion.token_versions.index(1) < 80
        (later,) = await collect(pool, request(size=1))
        assert (later.policy_version, later.version_spans) == (1, ())

    asyncio.run(scenario())


def test_a_cancelled_group_frees_its_slots() -> None:
    async def scenario() -> None:
        pool = FakeSamplerPool(lambda *_: "x", delay_seconds=lambda _, index: 0.01 * index, max_concurrent_requests=1)
        completions = pool.sample_group(request())
        await anext(completions)
        await completions.aclose()
        assert pool.usage().num_running == 0

    asyncio.run(scenario())
