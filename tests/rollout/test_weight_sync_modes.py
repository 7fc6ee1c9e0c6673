"""Loading and verification of policies in each weight sync mode: real vLLM compared with transformers and peft."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from cluster.errors import ModelError
from cluster.types import Completion, GroupRequest, PolicyVersion
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from rollout.weight_sync import Adapter, BoundAdapter, Verification
from rollout.weight_sync_modes import write_files
from tests.rollout.conftest import LORA_RANK, MakeRequest, RunInLoop, TinyModel

pytestmark = [pytest.mark.slow, pytest.mark.model_runner]

TEMPERATURE = 0.8
TOLERANCE = 1e-4  # nats; another version is off by more than 0.1


@pytest.fixture(scope="module", params=["versions", "in_flight", "merged"])
def mode(request: pytest.FixtureRequest) -> str:
    mode: str = request.param
    return mode


@pytest.fixture(scope="module")
def sampler(
    mode: str, run: RunInLoop, tiny_model: TinyModel, quick_engines: None, pytestconfig: pytest.Config
) -> Iterator[Sampler]:
    settings = RolloutSettings(
        max_prompt_tokens=192, max_completion_tokens=300, enforce_eager=True, kv_cache_gib=0.25, weight_sync_mode=mode
    )
    sampler = Sampler(settings, model=tiny_model.path, lora_rank=LORA_RANK, max_staleness=1, pool_id=f"test-{mode}")
    run(sampler.start())
    assert run(model_runner(sampler)) == pytestconfig.getoption("--model-runner")
    yield sampler
    run(sampler.shutdown())


async def model_runner(sampler: Sampler) -> str:
    """The model runner of a sampler's engine, as ``--model-runner`` names it."""
    assert sampler._engine is not None
    engine = sampler._engine._engine
    config = engine.vllm_config
    if not config.use_v2_model_runner:
        return "v1"
    assert await engine.collective_rpc("model_runner_module") == ["vllm.v1.worker.cpu.model_runner"]
    return "v2-async" if config.scheduler_config.async_scheduling else "v2"


@pytest.fixture
def num_running_tokens(pytestconfig: pytest.Config) -> int:
    """Tokens of a completion that outlasts a publish; Triton's interpreter takes ten times as long for a token."""
    return 300 if pytestconfig.getoption("--model-runner") == "v1" else 40


async def collect(sampler: Sampler, request: GroupRequest, version: int) -> list[Completion]:
    batches = [batch async for batch in sampler.sample(request, range(request.group_size), version)]
    return sorted((completion for batch in batches for completion in batch), key=lambda completion: completion.index)


def gap(
    tiny_model: TinyModel, adapter_folders: dict[int, Path], completion: Completion, temperature: float = TEMPERATURE
) -> float:
    """Largest difference between a token's sampler logprob and its logprob under the policy recorded for the token."""
    versions = completion.token_versions
    expected = {
        version: tiny_model.logprobs(completion, temperature, adapter_folders.get(version)) for version in set(versions)
    }
    largest: float = max(
        abs(logprob - expected[version][position])
        for position, (version, logprob) in enumerate(zip(versions, completion.sampler_logprobs, strict=True))
    )
    return largest


def edited(policy: PolicyVersion, edit: Callable[[str, torch.Tensor], torch.Tensor]) -> PolicyVersion:
    """The policy with other weights under the same names."""
    weights = {name: edit(name, tensor) for name, tensor in load(policy.adapter["adapter_model.safetensors"]).items()}
    return replace(policy, adapter={**policy.adapter, "adapter_model.safetensors": save(weights)})


def verify(run: RunInLoop, sampler: Sampler, policy: PolicyVersion) -> Verification:
    return run(sampler.load_policy(policy, {policy.number}, TOLERANCE))


def test_running_completions_record_the_policy_of_each_token(
    run: RunInLoop,
    mode: str,
    sampler: Sampler,
    tiny_model: TinyModel,
    policies: dict[int, PolicyVersion],
    adapter_folders: dict[int, Path],
    request_for: MakeRequest,
    num_running_tokens: int,
) -> None:
    async def scenario(version: int) -> tuple[Verification, list[Completion], list[Completion]]:
        before = version - 1
        running = asyncio.create_task(
            collect(
                sampler,
                request_for(f"running-{version}", size=8, tokens=num_running_tokens, seed=version, stop=()),
                before,
            )
        )
        # Requested after the running group: when this completion ends, the running ones have begun.
        await collect(sampler, request_for(f"begun-{version}", size=1, tokens=4), before)
        verification = await sampler.load_policy(policies[version], {before, version}, TOLERANCE)
        fresh = await collect(sampler, request_for(f"fresh-{version}", size=2, tokens=8), version)
        return verification, await running, fresh

    for version in (1, 2, 3):
        verification, old, fresh = run(scenario(version))
        assert verification.failure is None
        assert verification.gap is not None and verification.gap < 1e-5
        assert {token for c in fresh for token in c.token_versions} == {version}
        assert max(gap(tiny_model, adapter_folders, completion) for completion in [*old, *fresh]) < TOLERANCE
        longest = max(old, key=lambda completion: len(completion.token_ids))
        # Without an adapter there is nothing to exchange in flight.
        exchanges = mode == "merged" or (mode == "in_flight" and version > 1)
        assert set(longest.token_versions) == ({version - 1, version} if exchanges else {version - 1})
        assert longest.policy_version == longest.token_versions[-1]


def test_the_weights_of_another_version_fail_verification(
    run: RunInLoop, sampler: Sampler, policies: dict[int, PolicyVersion]
) -> None:
    verification = verify(run, sampler, replace(policies[1], number=11, probes=policies[2].probes))
    assert verification.gap is not None and verification.gap > 0.05
    assert verification.failure is not None and "nats per token away from the learner's" in verification.failure


def test_the_base_model_instead_of_the_adapter_fails_verification(
    run: RunInLoop, sampler: Sampler, policies: dict[int, PolicyVersion]
) -> None:
    zero = edited(policies[1], lambda name, tensor: tensor * (0 if "lora_B" in name else 1))
    verification = verify(run, sampler, replace(zero, number=12))
    assert verification.gap is not None and verification.gap > 0.05
    assert verification.failure is not None


def test_an_adapter_with_unknown_keys_fails_verification_and_its_modules_are_named(
    run: RunInLoop, mode: str, sampler: Sampler, policies: dict[int, PolicyVersion]
) -> None:
    weights = load(policies[1].adapter["adapter_model.safetensors"])
    foreign = save({name.replace("base_model.model.", "base_model.model.wrong."): t for name, t in weights.items()})
    policy = replace(policies[1], number=13, adapter={**policies[1].adapter, "adapter_model.safetensors": foreign})
    if mode == "merged":
        with pytest.raises(ModelError, match=r"trains wrong.model.layers.\S+, and .* has no weight of that name"):
            verify(run, sampler, policy)
        return
    verification = verify(run, sampler, policy)
    assert set(verification.missing) == set(policies[1].modules)
    assert verification.gap is not None and verification.gap > 0.05


def test_an_adapter_with_missing_modules_fails_verification_and_they_are_named(
    run: RunInLoop, sampler: Sampler, policies: dict[int, PolicyVersion]
) -> None:
    weights = load(policies[1].adapter["adapter_model.safetensors"])
    part = save({name: tensor for name, tensor in weights.items() if ".layers.1.mlp.up_proj." not in name})
    policy = replace(policies[1], number=14, adapter={**policies[1].adapter, "adapter_model.safetensors": part})
    assert verify(run, sampler, policy).missing == ("model.layers.1.mlp.up_proj",)


def test_weight_comparison_finds_differences_that_the_probe_prompt_misses(
    run: RunInLoop, mode: str, sampler: Sampler, policies: dict[int, PolicyVersion]
) -> None:
    if mode == "merged":
        pytest.skip("the engine holds no adapter whose weights could be compared")

    async def scenario() -> tuple[Verification, list[BoundAdapter]]:
        verification = await sampler.load_policy(replace(policies[1], number=15), {15}, TOLERANCE)
        assert sampler._mode and sampler._adapter_cache and sampler._engine
        adapter = sampler._mode.adapter(15)
        assert adapter is not None
        up, down = "layers.0.mlp.up_proj.lora_A", "layers.1.mlp.down_proj.lora_B"
        two_changed = edited(policies[1], lambda name, tensor: tensor * (1.1 if up in name else 1))
        two_changed = edited(two_changed, lambda name, tensor: tensor + 1e-4 * (down in name))
        small_update = edited(policies[1], lambda name, tensor: tensor + 5e-6 * ("lora_B" in name))
        config = json.loads(policies[1].adapter["adapter_config.json"])
        halved = json.dumps(config | {"lora_alpha": config["lora_alpha"] / 2}).encode()
        half_alpha = replace(policies[1], adapter={**policies[1].adapter, "adapter_config.json": halved})
        found = []
        for policy in (two_changed, small_update, half_alpha):
            folder = sampler._adapter_cache.put(16, partial(write_files, files=policy.adapter))
            found.append(await sampler._engine.bound(Adapter(version=16, slot=adapter.slot, folder=folder)))
            sampler._adapter_cache.remove(16)
        return verification, found

    verification, found = run(scenario())
    assert verification.failure is None
    assert [len(adapter.bound) for adapter in found] == [14] * 3
    assert found[0].differing == ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj")
    assert set(found[1].differing) == set(found[2].differing) == set(policies[1].modules)


def test_after_failed_verifications_the_right_policy_is_served_again(
    run: RunInLoop,
    mode: str,
    sampler: Sampler,
    tiny_model: TinyModel,
    policies: dict[int, PolicyVersion],
    adapter_folders: dict[int, Path],
    request_for: MakeRequest,
) -> None:
    for number in (20, 0):  # 0: an adapter that a run starts from
        verification = verify(run, sampler, replace(policies[3], number=number))
        assert verification.failure is None
        group = run(collect(sampler, request_for(f"g{number}", size=4, tokens=32), number))
        assert {completion.policy_version for completion in group} == {number}
        assert max(gap(tiny_model, {number: adapter_folders[3]}, completion) for completion in group) < TOLERANCE


def test_completions_that_end_before_a_failed_verification_are_held_back(
    run: RunInLoop, mode: str, sampler: Sampler, policies: dict[int, PolicyVersion], request_for: MakeRequest
) -> None:
    if mode == "versions":
        pytest.skip("no completion runs under a policy before its verification")

    async def scenario() -> tuple[Verification, bool, list[Completion]]:
        verification = await sampler.load_policy(
            replace(policies[1], number=21, probes=policies[2].probes), {21}, TOLERANCE
        )
        running = asyncio.create_task(collect(sampler, request_for("g", size=2, tokens=4), 21))
        await asyncio.sleep(0.5)
        is_held_back = not running.done()
        await sampler.load_policy(replace(policies[1], number=22), {22}, TOLERANCE)
        return verification, is_held_back, await running

    verification, is_held_back, group = run(scenario())
    assert verification.failure is not None
    assert is_held_back
    assert len(group) == 2
