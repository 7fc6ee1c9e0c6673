"""Whole weights into running engines: real vLLM compared with transformers."""

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from transformers import AutoConfig, AutoModelForCausalLM

from cluster.types import Completion, PolicyVersion, ProbePrompt
from cluster.weight_sums import OUTSIDE_LAYERS, weight_sums
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from tests.rollout.conftest import MakeRequest, RunInLoop, TinyModel

pytestmark = [pytest.mark.slow, pytest.mark.model_runner]

TOLERANCE = 1e-4
TOKENS = [(7 * position) % 300 for position in range(1, 65)]
Edit = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Trained:
    policy: PolicyVersion
    folder: Path  # of the model


def trained(number: int, tiny_model: TinyModel, folder: Path) -> Trained:
    """A policy with random weights, as a learner publishes it; embedding and head are tied."""
    torch.manual_seed(number)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model.path), dtype=torch.float32)
    model.save_pretrained(folder)
    with torch.no_grad():
        scores = model(torch.tensor([TOKENS])).logits[0, :-1].log_softmax(-1)
    logprobs = tuple(scores.gather(-1, torch.tensor(TOKENS[1:])[:, None])[:, 0].tolist())
    content = (folder / "model.safetensors").read_bytes()
    sums = weight_sums(load(content).items())
    policy = PolicyVersion(
        number=number,
        adapter={"model.safetensors": content},
        modules=tuple(sums),
        weight_sums=sums,
        probes=(ProbePrompt(token_ids=tuple(TOKENS), logprobs=logprobs),),
    )
    return Trained(policy=policy, folder=folder)


@pytest.fixture(scope="module")
def policies(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Trained]:
    return {number: trained(number, tiny_model, tmp_path_factory.mktemp(f"full-{number}")) for number in (1, 2)}


@pytest.fixture(scope="module")
def sampler(run: RunInLoop, tiny_model: TinyModel, quick_engines: None) -> Iterator[Sampler]:
    settings = RolloutSettings(
        max_prompt_tokens=192, max_completion_tokens=300, enforce_eager=True, kv_cache_gib=0.25, weight_sync_mode="full"
    )
    sampler = Sampler(settings, model=tiny_model.path, lora_rank=8, max_staleness=1, pool_id="test-full")
    run(sampler.start())
    yield sampler
    run(sampler.shutdown())


def test_running_completions_continue_under_new_weights_and_record_the_policy_of_each_token(
    run: RunInLoop,
    sampler: Sampler,
    tiny_model: TinyModel,
    policies: dict[int, Trained],
    request_for: MakeRequest,
    pytestconfig: pytest.Config,
) -> None:
    num_tokens = 300 if pytestconfig.getoption("--model-runner") == "v1" else 40

    async def sample(name: str, tokens: int, version: int) -> list[Completion]:
        request = request_for(name, size=2, tokens=tokens, stop=())
        return [each async for batch in sampler.sample(request, range(2), version) for each in batch]

    async def scenario(version: int) -> list[Completion]:
        running = asyncio.create_task(sample(f"running-{version}", num_tokens, version - 1))
        await sample(f"begun-{version}", 4, version - 1)
        verification = await sampler.load_policy(policies[version].policy, {version}, TOLERANCE)
        assert verification.failure is None
        assert verification.gap is not None
        assert verification.gap < 1e-5  # also of the head, whose tied weights have no name in the files
        return [*await running, *await sample(f"fresh-{version}", 8, version)]

    folders = {0: Path(tiny_model.path)} | {number: each.folder for number, each in policies.items()}
    models = {number: replace(tiny_model, path=str(folder)) for number, folder in folders.items()}
    changed = 0
    for version in (1, 2):
        for completion in run(scenario(version)):
            versions = completion.token_versions
            expected = {one: models[one].logprobs(completion, 0.8) for one in set(versions)}
            for position, logprob in enumerate(completion.sampler_logprobs):
                assert logprob == pytest.approx(expected[versions[position]][position], abs=1e-4)
            changed += len(expected) > 1
    assert changed


def one_bit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    changed = weights["model.layers.1.mlp.up_proj.weight"].clone()
    changed[0, 0] = torch.nextafter(changed[0, 0], torch.tensor(9.0))
    return weights | {"model.layers.1.mlp.up_proj.weight": changed}


def without(part: str) -> Edit:
    return lambda weights: {name: tensor for name, tensor in weights.items() if part not in name}


@pytest.mark.parametrize(
    ("edit", "failure"),
    [
        (one_bit, r"^does not serve policy 3: 1 modules are bound with other weights than were published \(layer 1\)$"),
        (
            without("layers.0.self_attn.k_proj"),
            r"1 modules are bound with other weights than were published \(layer 0\)",
        ),
        (without("layers.0."), r"1 trained modules are not bound \(layer 0\)"),
        (without("model.norm"), rf"other weights than were published \({OUTSIDE_LAYERS}\)"),
    ],
    ids=["one bit", "a projection", "a layer", "the final norm"],
)
def test_weights_that_an_engine_did_not_load_fail_the_verification(
    edit: Edit, failure: str, run: RunInLoop, sampler: Sampler, policies: dict[int, Trained]
) -> None:
    policy = policies[1].policy
    files = {"model.safetensors": save(edit(load(policy.adapter["model.safetensors"])))}
    broken = run(sampler.load_policy(replace(policy, number=3, adapter=files, probes=()), {3}, TOLERANCE))
    assert broken.failure is not None
    assert re.search(failure, broken.failure), broken.failure
    assert sampler._adapter_cache is not None
    sampler._adapter_cache.remove(3)
    sampler._loaded_versions.discard(3)
