"""A whole step with a model of each family, in every weight-sync mode, on the real vLLM and TRL.

A random model writes nothing that compiles, so the grades here are invented; tests/test_run.py has a run with real grades.
"""

import asyncio
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cluster.types import Group, GroupRequest, PolicyVersion, Problem, Prompt, Sampling
from grader.fake import grade_of
from learner.lora_settings import LoraSettings
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings
from rollout.prompt import PromptRenderer
from rollout.prompt_settings import PromptSettings
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from rollout.weight_sync_modes import InFlight
from tests.model_families import FAMILIES, make_model

pytestmark = pytest.mark.slow

PROBLEMS = [
    Problem(
        id=f"times-{number}",
        statement=f"(** {number} times a number. *)",
        signature="let times (n : int) : int =",
        tests="",
    )
    for number in range(3)
]
SHORT = ("qwen2", "gemma3_text", "phi3", "gpt_oss")  # `make test` runs these: plain, no system role, fused, experts
MAX_PROMPT_TOKENS = 320
TEMPERATURE = 1.2
TOLERANCE = 1e-4  # nats per token, in float32; another adapter is off by far more


@pytest.fixture(params=[name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in FAMILIES])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return make_model(tmp_path / "model", request.param)


def prompts_of(model: str) -> list[Prompt]:
    """Prompts as a run renders them, with the chat template of the family."""
    from transformers import AutoTokenizer

    renderer = PromptRenderer(
        AutoTokenizer.from_pretrained(model),
        PromptSettings(),
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        today=date(2026, 1, 2),
    )
    return [renderer.render(problem) for problem in PROBLEMS]


@pytest.fixture
def learner(model: str, tmp_path: Path) -> Iterator[Any]:
    from learner.worker import LearnerWorker

    plan = LearnerPlan(
        model=model,
        temperature=TEMPERATURE,
        max_completion_tokens=32,
        max_staleness=8,
        max_steps=8,
        seed=0,
        checkpoints_dir=tmp_path / "checkpoints",
        probe_ids=(prompts_of(model)[2].token_ids,),
    )
    learner = LearnerWorker(LearnerSettings(lora=LoraSettings(r=8, alpha=16, dropout=0.0), learning_rate=1e-2), plan)
    learner.start()
    yield learner
    learner.close()


def sampler_of(model: str, mode: str, modules: tuple[str, ...]) -> Sampler:
    settings = RolloutSettings(
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        max_completion_tokens=32,
        enforce_eager=True,
        kv_cache_gib=0.1,
        weight_sync_mode=mode,
        max_concurrent_requests=16,
    )
    return Sampler(
        settings,
        model=model,
        lora_rank=8,
        lora_targets=sorted({module.rpartition(".")[2] for module in modules}),
        max_staleness=1,
        pool_id=uuid4().hex,
    )


async def groups_of(sampler: Sampler, model: str, version: int) -> list[Group]:
    groups = []
    for number, prompt in enumerate(prompts_of(model)[:2]):
        request = GroupRequest(
            group_id=f"v{version}g{number}",
            prompt=prompt,
            group_size=4,
            sampling=Sampling(temperature=TEMPERATURE, max_completion_tokens=32),
            seed=number,
        )
        completions = [each async for ended in sampler.sample(request, range(4), version) for each in ended]
        completions.sort(key=lambda completion: completion.index)
        grades = tuple(grade_of(reward) for reward in (1.0, 0.0, 0.5, 0.25))
        groups.append(
            Group(id=request.group_id, problem=PROBLEMS[number], completions=tuple(completions), grades=grades)
        )
    return groups


async def step(sampler: Sampler, learner: Any, model: str, version: int) -> PolicyVersion:
    """Sample under a version, learn from the groups, and publish and verify the next version."""
    policy: PolicyVersion
    policy, report = learner.step(await groups_of(sampler, model, version))
    assert report.metrics["sampling/sampling_logp_difference/mean"] < TOLERANCE
    assert report.metrics["grad_norm"] > 0
    await assert_verified(sampler, policy)
    return policy


async def assert_verified(sampler: Sampler, policy: PolicyVersion) -> None:
    verification = await sampler.load_policy(policy, {policy.number}, TOLERANCE)
    assert verification.failure is None
    assert verification.gap is not None
    assert verification.gap < TOLERANCE


def test_a_family_is_sampled_learned_published_and_exported_in_every_mode(
    model: str, learner: Any, quick_engines: None, tmp_path: Path
) -> None:
    from learner.training.merge import logprobs, write_merged
    from learner.training.targets import adapter_size

    async def scenario() -> None:
        modules = adapter_size(model, learner._settings.lora).targets
        sampler = sampler_of(model, "versions", modules)
        await sampler.start()
        try:
            await step(sampler, learner, model, 0)
            policy = await step(sampler, learner, model, 1)
            # The same engine serves the in-flight mode: only the number of adapters differs between the two modes.
            assert sampler._engine is not None
            assert sampler._adapter_cache is not None
            sampler._mode = InFlight(sampler._engine, sampler._adapter_cache, sampler._settings, sampler._model)
            await assert_verified(sampler, policy)
        finally:
            await sampler.shutdown()
        sampler = sampler_of(model, "merged", modules)
        await sampler.start()
        try:
            await assert_verified(sampler, policy)
            await step(sampler, learner, model, policy.number)
        finally:
            await sampler.shutdown()

    asyncio.run(scenario())
    learner.export_adapter(str(tmp_path / "adapter"))
    write_merged(model, tmp_path / "adapter", tmp_path / "merged", dtype="float32")
    assert (tmp_path / "merged/tokenizer.json").is_file()
    texts = [prompt.token_ids for prompt in prompts_of(model)]
    adapted = logprobs(model, texts, dtype="float32", adapter=tmp_path / "adapter")
    assert logprobs(str(tmp_path / "merged"), texts, dtype="float32") == pytest.approx(adapted, abs=TOLERANCE)
