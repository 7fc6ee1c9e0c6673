"""How an engine takes a policy and proves it: real vLLM against transformers and peft, in each way of changing over."""

import asyncio
from dataclasses import replace

import pytest
from safetensors.torch import load, save

from cluster.errors import ModelError
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from rollout.weight_sync import Adapter

pytestmark = pytest.mark.slow

TEMPERATURE = 0.8
TOLERANCE = 1e-4  # nats; another version is off by more than 0.1


@pytest.fixture(scope="module", params=["versions", "in_flight", "merged"])
def swap(request):
    return request.param


@pytest.fixture(scope="module")
def sampler(swap, run, tiny_model):
    settings = RolloutSettings(
        max_prompt_tokens=192, max_completion_tokens=300, enforce_eager=True, kv_cache_gib=0.25, policy_swap=swap
    )
    sampler = Sampler(settings, model=tiny_model.path, lora_rank=8, max_staleness=1, pool_id=f"test-{swap}")
    run(sampler.start())
    yield sampler
    run(sampler.shutdown())


async def collect(sampler, request, version):
    batches = [batch async for batch in sampler.sample(request, range(request.group_size), version)]
    return sorted((completion for batch in batches for completion in batch), key=lambda completion: completion.index)


def gap(tiny_model, adapter_folders, completion, temperature=TEMPERATURE):
    """The worst difference, over tokens, to the policy that each one says sampled it."""
    versions = completion.token_versions
    expected = {
        version: tiny_model.logprobs(completion, temperature, adapter_folders.get(version)) for version in set(versions)
    }
    return max(
        abs(logprob - expected[version][position])
        for position, (version, logprob) in enumerate(zip(versions, completion.sampler_logprobs, strict=True))
    )


def edited(policy, edit):
    """The policy with other weights under the same names."""
    weights = {name: edit(name, tensor) for name, tensor in load(policy.adapter["adapter_model.safetensors"]).items()}
    return replace(policy, adapter={**policy.adapter, "adapter_model.safetensors": save(weights)})


def verified(run, sampler, policy):
    return run(sampler.load_policy(policy, {policy.number}))


def test_running_completions_say_token_by_token_which_policy_sampled_them(
    run, swap, sampler, tiny_model, policies, adapter_folders, request_for
):
    async def scenario(version):
        before = version - 1
        running = asyncio.create_task(
            collect(sampler, request_for(f"running-{version}", size=8, tokens=300, seed=version, stop=()), before)
        )
        # Asked for after the others: when it has ended, they have begun.
        await collect(sampler, request_for(f"begun-{version}", size=1, tokens=4), before)
        verification = await sampler.load_policy(policies[version], {before, version})
        fresh = await collect(sampler, request_for(f"fresh-{version}", size=2, tokens=8), version)
        return verification, await running, fresh

    for version in (1, 2, 3):
        verification, old, fresh = run(scenario(version))
        assert verification.failure is None
        assert verification.gap < 1e-5
        assert {token for c in fresh for token in c.token_versions} == {version}
        assert max(gap(tiny_model, adapter_folders, completion) for completion in [*old, *fresh]) < TOLERANCE
        longest = max(old, key=lambda completion: len(completion.token_ids))
        # Without an adapter there is nothing to exchange in flight.
        exchanges = swap == "merged" or (swap == "in_flight" and version > 1)
        assert set(longest.token_versions) == ({version - 1, version} if exchanges else {version - 1})
        assert longest.policy_version == longest.token_versions[-1]


def test_the_weights_of_another_version_are_no_proof(run, sampler, policies):
    verification = verified(run, sampler, replace(policies[1], number=11, probe=policies[2].probe))
    assert verification.gap > 0.05
    assert "nats per token away from the learner's" in verification.failure


def test_the_base_model_in_place_of_the_adapter_is_no_proof(run, sampler, policies):
    zero = edited(policies[1], lambda name, tensor: tensor * (0 if "lora_B" in name else 1))
    verification = verified(run, sampler, replace(zero, number=12))
    assert verification.gap > 0.05
    assert verification.failure is not None


def test_an_adapter_under_foreign_names_is_no_proof_and_its_modules_are_named(run, swap, sampler, policies):
    weights = load(policies[1].adapter["adapter_model.safetensors"])
    foreign = save({name.replace("base_model.model.", "base_model.model.wrong."): t for name, t in weights.items()})
    policy = replace(policies[1], number=13, adapter={**policies[1].adapter, "adapter_model.safetensors": foreign})
    if swap == "merged":
        with pytest.raises(ModelError, match=r"trains wrong.model.layers.\S+, and .* has no weight of that name"):
            verified(run, sampler, policy)
        return
    verification = verified(run, sampler, policy)
    assert set(verification.missing) == set(policies[1].modules)
    assert verification.gap > 0.05


def test_a_part_of_the_modules_is_no_proof_and_the_others_are_named(run, sampler, policies):
    weights = load(policies[1].adapter["adapter_model.safetensors"])
    part = save({name: tensor for name, tensor in weights.items() if ".layers.1.mlp.up_proj." not in name})
    policy = replace(policies[1], number=14, adapter={**policies[1].adapter, "adapter_model.safetensors": part})
    assert verified(run, sampler, policy).missing == ("model.layers.1.mlp.up_proj",)


def test_weights_that_no_probe_prompt_can_tell_apart_are_told_apart(run, swap, sampler, policies):
    if swap == "merged":
        pytest.skip("the engine holds no adapter whose weights could be looked at")

    async def scenario():
        verification = await sampler.load_policy(replace(policies[1], number=15), {15})
        adapter = sampler._mode.adapter(15)
        nudged = edited(
            policies[1], lambda name, tensor: tensor * (1.1 if "layers.0.mlp.up_proj.lora_A" in name else 1)
        )
        nudged = edited(nudged, lambda name, tensor: tensor + 1e-4 * ("layers.1.mlp.down_proj.lora_B" in name))
        folder = sampler._adapter_cache.put(
            16, lambda path: [(path / name).write_bytes(content) for name, content in nudged.adapter.items()]
        )
        held = await sampler._engine.bound(Adapter(version=16, slot=adapter.slot, folder=folder))
        sampler._adapter_cache.remove(16)
        return verification, held

    verification, held = run(scenario())
    assert verification.failure is None
    assert held.differing == ("model.layers.1.mlp.down_proj",)  # a factor alone is for the probe prompt to see
    assert len(held.bound) == 14


def test_after_all_that_the_right_policy_is_served_again(
    run, swap, sampler, tiny_model, policies, adapter_folders, request_for
):
    verification = verified(run, sampler, replace(policies[3], number=20))
    assert verification.failure is None
    group = run(collect(sampler, request_for("g", size=4, tokens=32), 20))
    assert {completion.policy_version for completion in group} == {20}
    assert max(gap(tiny_model, {20: adapter_folders[3]}, completion) for completion in group) < TOLERANCE


def test_what_ended_between_exchange_and_proof_is_not_handed_over_where_the_proof_fails(
    run, swap, sampler, policies, request_for
):
    if swap == "versions":
        pytest.skip("nothing runs under a policy before its proof")

    async def scenario():
        verification = await sampler.load_policy(replace(policies[1], number=21, probe=policies[2].probe), {21})
        running = asyncio.create_task(collect(sampler, request_for("g", size=2, tokens=4), 21))
        await asyncio.sleep(0.5)
        is_held_back = not running.done()
        await sampler.load_policy(replace(policies[1], number=22), {22})
        return verification, is_held_back, await running

    verification, is_held_back, group = run(scenario())
    assert verification.failure is not None
    assert is_held_back
    assert len(group) == 2
