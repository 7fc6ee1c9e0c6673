import asyncio

import pytest

from cluster.types import FinishReason, GroupRequest, PolicyVersion, Prompt, SamplerError, SamplerPool, Sampling
from rollout.fake import FakeSamplerPool


def request(size: int = 3, tokens: int = 100) -> GroupRequest:
    return GroupRequest(
        group_id="g",
        prompt=Prompt(problem_id="p", text="?", token_ids=(1, 2)),
        group_size=size,
        sampling=Sampling(temperature=1.0, max_completion_tokens=tokens),
        seed=0,
    )


async def collect(pool: SamplerPool, asked: GroupRequest) -> list:
    return [completion async for completion in pool.sample_group(asked)]


def test_the_fake_samples_what_its_function_says():
    pool = FakeSamplerPool(lambda asked, index, version: f"{asked.group_id}{index}v{version}")
    completions = asyncio.run(collect(pool, request()))
    assert [c.text for c in completions] == ["g0v0", "g1v0", "g2v0"]
    assert all(len(c.token_ids) == len(c.sampler_logprobs) == 4 for c in completions)
    assert all(c.finish_reason is FinishReason.STOP for c in completions)


def test_the_fake_ends_completions_in_the_order_of_their_delays():
    pool = FakeSamplerPool(lambda *_: "x", delay_seconds=lambda _, index: 0.03 - 0.01 * index)
    assert [c.index for c in asyncio.run(collect(pool, request()))] == [2, 1, 0]


def test_the_fake_cuts_at_the_length_limit():
    (completion,) = asyncio.run(collect(FakeSamplerPool(lambda *_: "abcdef"), request(size=1, tokens=4)))
    assert (completion.text, completion.finish_reason) == ("abcd", FinishReason.LENGTH)


def test_a_group_of_the_fake_keeps_the_version_it_began_with():
    async def scenario():
        pool = FakeSamplerPool(lambda _asked, _index, version: str(version))
        running = pool.sample_group(request())
        first = await anext(running)
        await pool.publish(PolicyVersion(number=1, adapter={}))
        assert [first.text, *[c.text async for c in running]] == ["0", "0", "0"]
        assert [c.policy_version for c in await collect(pool, request())] == [1, 1, 1]
        with pytest.raises(SamplerError, match="comes after"):
            await pool.publish(PolicyVersion(number=1, adapter={}))

    asyncio.run(scenario())


def test_a_closed_fake_refuses_groups():
    async def scenario():
        pool = FakeSamplerPool(lambda *_: "x")
        await pool.close()
        await pool.close()
        with pytest.raises(SamplerError, match="closed"):
            await collect(pool, request())

    asyncio.run(scenario())
