"""GPU acceptance suite: the sampler's engine, its numbers, its weight sync, and its memory."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save

from cluster.config.load import load_config
from cluster.config.model_path import tiny_model_path
from cluster.errors import ModelError
from cluster.placement.plan.machines import this_machine
from cluster.placement.plan.memory import sampler_memory
from cluster.placement.plan.model_shape import GIB, shape_of
from cluster.types import Group, PolicyVersion
from learner.lora_settings import LoraSettings
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings
from learner.worker import LearnerWorker
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from rollout.weight_sync import max_base_gap, tolerance, typical_gap
from tests.gpu.conftest import Report
from tests.gpu.samplers import NUM_TOKENS, MakeSampler, config_of, group_of
from tests.learner.factories import TEMPERATURE
from tests.learner.test_families import scored
from tests.model_families import make_model
from tests.rollout.conftest import RunInLoop

pytestmark = pytest.mark.slow

PROBES = tuple(tuple((7 * position + 31 * number) % 900 + 50 for position in range(48)) for number in range(4))
CONFIGURATION = {"cuda": ("V2", "FLASH_ATTN", "async"), "cpu": ("V1", "CPU_ATTN", "sync")}
GAPS = {"float32": 1e-4, "bfloat16": 0.03}  # nats per token, mean, at a temperature of 0.7


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small Qwen2 with heads of 64, which every attention backend computes."""
    return make_model(tmp_path_factory.mktemp("qwen2"), "qwen2", hidden_size=256)


@pytest.mark.gpu("engine of a sampler", "; ".join(f"{name}: {' '.join(of)}" for name, of in CONFIGURATION.items()))
def test_the_engine_has_the_runner_the_attention_and_the_scheduling_of_its_device(
    report: Report, device: str, model: str, make_sampler: MakeSampler
) -> None:
    from vllm.config import set_current_vllm_config
    from vllm.v1.attention.selector import get_attn_backend

    config = config_of(make_sampler(model))
    with set_current_vllm_config(config):
        size, dtype = config.model_config.get_head_size(), config.model_config.dtype
        attention = get_attn_backend(size, dtype, config.cache_config.cache_dtype).get_name()
    found = (
        "V2" if config.use_v2_model_runner else "V1",
        attention,
        "async" if config.scheduler_config.async_scheduling else "sync",
    )
    report(" ".join(found), passed=found == CONFIGURATION[device])


@pytest.mark.gpu("logprobs of completions against transformers", "mean < 1e-4 nats in float32, < 0.03 in bfloat16")
@pytest.mark.parametrize("dtype", GAPS)
def test_completions_have_the_logprobs_that_transformers_computes(
    dtype: str, report: Report, device: str, make_sampler: MakeSampler, run: RunInLoop
) -> None:
    num_groups, size = (32, 8) if device == "cuda" else (4, 8)
    model = str(tiny_model_path())  # trained: a random model enlarges rounding errors
    sampler = make_sampler(model, dtype=dtype, weight_sync_mode="merged")  # vLLM has no LoRA in float32 on GPUs

    async def sample() -> list[Group]:
        return list(await asyncio.gather(*(group_of(sampler, number, size=size) for number in range(num_groups))))

    groups = run(sample())
    differences = [
        abs(ours - exact)
        for group, of_transformers in zip(groups, scored(model, groups), strict=True)
        for one, other in zip(group.completions, of_transformers.completions, strict=True)
        for ours, exact in zip(one.sampler_logprobs, other.sampler_logprobs, strict=True)
    ]
    assert len(differences) > num_groups * size * NUM_TOKENS / 4
    mean = sum(differences) / len(differences)
    report(f"{mean:.1e} over {num_groups * size} completions", passed=mean < GAPS[dtype])


def plan_of(model: str, folder: Path) -> LearnerPlan:
    return LearnerPlan(
        model=model,
        temperature=TEMPERATURE,
        max_completion_tokens=NUM_TOKENS,
        max_staleness=8,
        max_steps=8,
        seed=0,
        checkpoints_dir=folder,
        probe_ids=PROBES,
    )


def learner_of(model: str, folder: Path, gpus: float, **changes: Any) -> LearnerWorker:
    """A learner whose policies are far apart."""
    lora = LoraSettings(r=8, alpha=16, dropout=0.0)
    return LearnerWorker(LearnerSettings(lora=lora, learning_rate=3e-2, gpus=gpus, **changes), plan_of(model, folder))


def refused(run: RunInLoop, sampler: Sampler, policy: PolicyVersion, nats: float) -> str:
    """Return the reason why a sampler refuses a policy; empty if it serves the policy."""
    try:
        return run(sampler.load_policy(policy, {policy.number}, nats)).failure or ""
    except ModelError as error:
        return str(error)


def with_weights(policy: PolicyVersion, number: int, *, renamed: str = "", without: str = "-") -> PolicyVersion:
    """Return the policy with a prefix before its module names, or without one module."""
    weights = load(policy.adapter["adapter_model.safetensors"])
    kept = {
        name.replace("base_model.model.", f"base_model.model.{renamed}"): tensor
        for name, tensor in weights.items()
        if without not in name
    }
    return replace(policy, number=number, adapter={**policy.adapter, "adapter_model.safetensors": save(kept)})


CASES = [(family, mode) for family in ("qwen2", "qwen3", "llama") for mode in ("versions", "in_flight", "merged")]
QUICK_CASES = (("qwen2", "versions"),)  # of the stand-ins in `make test`


@pytest.mark.gpu(
    "weight sync", "gap below the tolerance; the wrong, a partial and a foreign adapter are refused for their fault"
)
@pytest.mark.parametrize(
    ("family", "mode"), [pytest.param(*case, marks=() if case in QUICK_CASES else pytest.mark.long) for case in CASES]
)
def test_a_published_policy_is_verified_and_wrong_ones_are_refused(
    family: str, mode: str, report: Report, gpus: float, make_sampler: MakeSampler, run: RunInLoop, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "model", family, hidden_size=256, **({"head_dim": 64} if family == "qwen3" else {}))
    learner = learner_of(folder, tmp_path / "checkpoints", gpus)
    learner.start()
    try:
        base = learner.base_probes()
        sampler = make_sampler(folder, weight_sync_mode=mode)
        allowed = tolerance(sampler._settings, run(sampler.base_gaps(base)))
        groups = [run(group_of(sampler, number, size=4)) for number in range(2)]
        first, _ = learner.step(groups)
        served = run(sampler.load_policy(first, {first.number}, allowed))
        after = [run(group_of(sampler, number, size=4, version=first.number)) for number in range(2)]
        second, learned = learner.step(after)
        gap = learned.metrics["sampling/sampling_logp_difference/mean"]  # of whole completions under the policy
        faults = {
            "nats per token away": replace(second, number=11, adapter=first.adapter),
            "not bound" if mode != "merged" else "not bound|nats per token away": with_weights(
                second, 12, without=".layers.1.mlp.up_proj."
            ),
            "not bound|has no weight of that name": with_weights(second, 13, renamed="wrong."),
        }
        answers = {fault: refused(run, sampler, policy, allowed) for fault, policy in faults.items()}
    finally:
        learner.close()
    missed = [fault for fault, answer in answers.items() if not any(part in answer for part in fault.split("|"))]
    report(
        f"gap {served.gap:.1e} of {allowed:.1e} allowed, {gap:.1e} over completions; refused: {3 - len(missed)} of 3",
        passed=served.failure is None and gap < allowed and not missed,
    )


@pytest.mark.gpu("engine with weights and KV cache in FP8", "gap to the learner < 0.5 nats, and a policy is verified")
@pytest.mark.needs_gpus(1)  # vLLM's CPU build has no FP8 weights
def test_an_engine_in_fp8_serves_a_learner_on_an_nf4_base(
    report: Report, gpus: float, make_sampler: MakeSampler, run: RunInLoop, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "model", "qwen2", hidden_size=256)
    learner = learner_of(folder, tmp_path / "checkpoints", gpus, quantization="nf4")
    learner.start()
    try:
        sampler = make_sampler(folder, engine={"quantization": "fp8", "kv_cache_dtype": "fp8"})
        gaps = run(sampler.base_gaps(learner.base_probes()))
        policy, _ = learner.step([run(group_of(sampler, number, size=4)) for number in range(2)])
        served = run(sampler.load_policy(policy, {policy.number}, tolerance(sampler._settings, gaps)))
    finally:
        learner.close()
    allowed = max_base_gap(sampler._settings, learner_is_quantized=True)
    report(
        f"gap {typical_gap(gaps):.1e}, under the policy {served.gap:.1e}",
        passed=typical_gap(gaps) < allowed and served.failure is None,
    )


@pytest.mark.gpu(
    "weight sync of all weights",
    "gap below the tolerance; other weights, and a layer too few, are refused for their fault",
)
def test_a_policy_of_all_weights_is_verified_and_wrong_ones_are_refused(
    report: Report, gpus: float, make_sampler: MakeSampler, run: RunInLoop, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "model", "qwen2", hidden_size=256)
    served_dtype = RolloutSettings(gpus_per_sampler=gpus).served_dtype
    settings = LearnerSettings(method="full", learning_rate=1e-3, gpus=gpus)
    learner = LearnerWorker(settings, replace(plan_of(folder, tmp_path / "checkpoints"), served_dtype=served_dtype))
    learner.start()
    try:
        sampler = make_sampler(folder, weight_sync_mode="full")
        allowed = tolerance(sampler._settings, run(sampler.base_gaps(learner.base_probes())))
        first, _ = learner.step([run(group_of(sampler, number, size=4)) for number in range(2)])
        served = run(sampler.load_policy(first, {first.number}, allowed))
        after = [run(group_of(sampler, number, size=4, version=first.number)) for number in range(2)]
        second, learned = learner.step(after)
    finally:
        learner.close()
    gap = learned.metrics["sampling/sampling_logp_difference/mean"]  # of whole completions under the policy
    weights = load(second.adapter["model.safetensors"])
    part = {name: tensor for name, tensor in weights.items() if "layers.1." not in name}
    faults = {
        "other weights than were published": replace(second, number=11, adapter=first.adapter),
        "not bound (layer 1)": replace(second, number=12, adapter={"model.safetensors": save(part)}),
    }
    missed = [fault for fault, policy in faults.items() if fault not in refused(run, sampler, policy, allowed)]
    report(
        f"gap {served.gap:.1e} of {allowed:.1e} allowed, {gap:.1e} over completions; refused: {2 - len(missed)} of 2",
        passed=served.failure is None and gap < allowed and not missed,
    )


def cache_bytes(sampler: Sampler) -> float:
    """Bytes of an engine's KV cache."""
    config = config_of(sampler)
    shape = shape_of(sampler._model)
    tokens = config.cache_config.num_gpu_blocks * config.cache_config.block_size
    return float(tokens * shape.cache_bytes_per_token(sampler._settings.served_dtype))


@pytest.mark.gpu("KV cache against caravan plan", "0.9 to 1.1 of plan; CPU: of rollout.kv_cache_gib")
def test_the_kv_cache_has_the_planned_size(
    report: Report, device: str, gpus: float, shaped_model: Path, make_sampler: MakeSampler
) -> None:
    sampler = make_sampler(str(shaped_model), enforce_eager=device == "cpu", gpu_memory_utilization=0.5)
    found = cache_bytes(sampler) / GIB
    planned = sampler._settings.kv_cache_gib
    if device == "cuda":
        gpu = this_machine().gpu
        assert gpu is not None and gpu.gib is not None
        words = ["gpus_per_sampler=1", "gpu_memory_utilization=0.5", "max_prompt_tokens=64", "max_completion_tokens=64"]
        config = load_config(None, [*words, f"model.path={shaped_model}", "lora.r=8"], environment={})
        planned = sampler_memory(config, shape_of(str(shaped_model)), gpu.gib).cache
    report(f"{found / planned:.3f} ({found:.2f} / {planned:.2f} GiB)", passed=0.9 <= found / planned <= 1.1)
