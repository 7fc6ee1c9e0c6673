"""GPU acceptance suite: start and end of an engine, decoding, and the pause of a publish."""

import asyncio
import gc
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest

from benchmarks.publish_stall import largest_gaps
from cluster.errors import SamplerError
from cluster.placement.plan.model_shape import GIB
from cluster.types import PolicyVersion
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from tests.gpu.conftest import Report
from tests.gpu.samplers import engine_processes, group_of, targets_of
from tests.rollout.conftest import RunInLoop

pytestmark = pytest.mark.slow

RANK = 32
PROMPT = list(range(40, 104))
COLD_SECONDS, WARM_SECONDS = 180.0, 60.0
COLD_SECONDS_CPU, WARM_SECONDS_CPU = 400.0, 200.0
LEAST = {"seeds": 0.97, "logprobs": 0.95, "LoRA": 0.70}  # of plain decoding
LEAST_CPU = {"seeds": 0.5, "logprobs": 0.5, "LoRA": 0.05}  # vLLM computes LoRA on the CPU without kernels
NUM_ROUNDS = 3
BACK_SECONDS = 10.0
DEATH_SECONDS = 60.0  # until a sampler reports the end of its engine, on a busy machine
SMALLEST_GIB = 0.5  # of an engine's memory on a GPU, so that its end shows
PAUSE_SECONDS, PAUSE_SECONDS_CPU = 0.3, 3.0
CACHES = {"VLLM_CACHE_ROOT": "vllm", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def new_sampler(model: Path, gpus: float, **changes: Any) -> Sampler:
    settings = {
        "weight_sync_mode": "versions",
        "max_prompt_tokens": 128,
        "max_completion_tokens": 1900,
        "max_concurrent_requests": 256,
        "gpus_per_sampler": gpus,
        "gpu_memory_utilization": 0.6,
        "kv_cache_gib": 0.5,
    }
    return Sampler(
        RolloutSettings(**settings | changes),
        model=str(model),
        lora_rank=RANK,
        lora_targets=targets_of(str(model)),
        max_staleness=1,
        pool_id=f"gpu-suite-{uuid4().hex}",
    )


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of all compiled code, empty at first."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        for variable, name in CACHES.items():
            patch.setenv(variable, str(folder / name))
        yield folder


def seconds_to_start(run: RunInLoop, model: Path, gpus: float) -> float:
    sampler = new_sampler(model, gpus)
    began = time.monotonic()
    try:
        run(sampler.start())
        return time.monotonic() - began
    finally:
        run(sampler.shutdown())


@pytest.mark.long
@pytest.mark.gpu(
    "start of a compiled engine, with empty and with filled caches",
    f"< {COLD_SECONDS:g} and < {WARM_SECONDS:g} s; CPU: < {COLD_SECONDS_CPU:g} and < {WARM_SECONDS_CPU:g} s",
)
@pytest.mark.timeout(900)
def test_an_engine_starts_in_time_and_faster_the_second_time(
    report: Report, device: str, gpus: float, shaped_model: Path, caches: Path, run: RunInLoop
) -> None:
    cold, warm = (seconds_to_start(run, shaped_model, gpus) for _ in range(2))
    compiled = sum(path.is_file() for path in caches.rglob("*"))
    limits = (COLD_SECONDS, WARM_SECONDS) if device == "cuda" else (COLD_SECONDS_CPU, WARM_SECONDS_CPU)
    report(
        f"{cold:.0f} and {warm:.0f} s, {compiled} files of compiled code",
        passed=cold < limits[0] and warm < limits[1] and compiled > 0,
    )


def used_gib(device: str, processes: Sequence[psutil.Process] = ()) -> float:
    """Memory in use: of the whole GPU, or of the processes on the CPU that are still there."""
    if device == "cuda":
        import torch

        return float(torch.cuda.device_memory_used() / GIB)
    alive = [process for process in processes if process.is_running() and process.status() != "zombie"]
    return float(sum(process.memory_info().rss for process in alive) / GIB)


@pytest.mark.long
@pytest.mark.gpu("SIGKILL of an engine", f"its memory is free within {BACK_SECONDS:g} s, and the next start succeeds")
def test_a_killed_engine_gives_its_memory_back_and_another_one_starts(
    report: Report, device: str, gpus: float, shaped_model: Path, run: RunInLoop
) -> None:
    async def end_by_sigkill(sampler: Sampler) -> tuple[float, float]:
        """Kill the engine of a sampler; returns its GiB, and seconds until they are free and the sampler knows of its end."""
        before = used_gib(device)
        await sampler.start()
        engine = sampler._engine
        assert engine is not None
        killed = engine_processes()
        assert killed, "no engine among the descendants of this process"
        during = used_gib(device, killed)
        assert during - before > (SMALLEST_GIB if device == "cuda" else 0.1)
        for process in killed:
            process.kill()
        began = time.monotonic()
        for _ in range(int(60 * BACK_SECONDS)):
            # vLLM never answers a request that comes before it has noticed the end.
            if used_gib(device, killed) - before <= 0.1 * (during - before) and engine._engine.errored:
                break
            await asyncio.sleep(0.1)
        seconds = time.monotonic() - began
        with pytest.raises(SamplerError):
            async with asyncio.timeout(DEATH_SECONDS):
                await group_of(sampler, 0, size=2)
        await sampler.shutdown()
        return during - before, seconds

    size, seconds = run(end_by_sigkill(new_sampler(shaped_model, gpus, enforce_eager=True)))
    another = new_sampler(shaped_model, gpus, enforce_eager=True)
    run(another.start())
    again = run(group_of(another, 0, size=2))
    run(another.shutdown())
    report(
        f"{seconds:.1f} s for {size:.2f} GiB; {len(again.completions)} completions afterwards",
        passed=seconds < BACK_SECONDS and len(again.completions) == 2,
    )


@dataclass(frozen=True, slots=True)
class Variant:
    """What requests ask for."""

    seeds: bool = False
    logprobs: bool = False
    policy: int = 0


VARIANTS: Mapping[str, Variant] = {
    "plain": Variant(),
    "seeds": Variant(seeds=True),
    "logprobs": Variant(logprobs=True),
    "LoRA": Variant(policy=1),
}


@pytest.fixture(scope="module")
def policy(shaped_model: Path, gpus: float, tmp_path_factory: pytest.TempPathFactory) -> PolicyVersion:
    """A policy of the learner for the shaped model, after one step."""
    from benchmarks.learner_contestants import make_groups
    from learner.lora_settings import LoraSettings
    from learner.plan import LearnerPlan
    from learner.settings import LearnerSettings
    from learner.worker import LearnerWorker

    plan = LearnerPlan(
        model=str(shaped_model),
        temperature=1.0,
        max_completion_tokens=512,
        max_staleness=8,
        max_steps=2,
        seed=0,
        checkpoints_dir=tmp_path_factory.mktemp("checkpoints"),
        probe_ids=(tuple(PROMPT),),
    )
    lora = LoraSettings(r=RANK, alpha=2 * RANK, dropout=0.0)
    learner = LearnerWorker(LearnerSettings(lora=lora, gpus=gpus), plan)
    learner.start()
    try:
        made, _ = learner.step(make_groups(num_groups=1, group_size=4, vocabulary=1000, uneven=True))
    finally:
        learner.close()
    return made


@pytest.fixture(scope="module")
def sampler(
    shaped_model: Path, gpus: float, device: str, policy: PolicyVersion, caches: Path, run: RunInLoop
) -> Iterator[Sampler]:
    """A sampler with the shaped model, compiled on a GPU, that serves the policy."""
    if device == "cuda":
        import torch

        gc.collect()
        torch.cuda.empty_cache()  # of the learner, for the engine
    sampler = new_sampler(shaped_model, gpus, enforce_eager=device == "cpu")
    run(sampler.start())
    verification = run(sampler.load_policy(policy, {1}, 0.1))
    assert verification.failure is None
    yield sampler
    run(sampler.shutdown())


async def decode(sampler: Sampler, variant: Variant, *, num_requests: int, num_tokens: int) -> float:
    """Tokens per second of so many requests at once, none of which ends early."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from rollout.engine import _lora_request

    assert sampler._engine is not None and sampler._mode is not None
    adapter = sampler._mode.adapter(variant.policy)
    name = uuid4().hex

    async def one(number: int) -> int:
        params = SamplingParams(
            temperature=1.0,
            max_tokens=num_tokens,
            ignore_eos=True,
            seed=number if variant.seeds else None,
            logprobs=0 if variant.logprobs else None,
            flat_logprobs=variant.logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        requests = sampler._engine._engine.generate(  # type: ignore[union-attr]
            {"prompt_token_ids": PROMPT},
            params,
            request_id=f"{name}-{number}",
            lora_request=None if adapter is None else _lora_request(adapter),
        )
        return sum([len(output.outputs[0].token_ids) async for output in requests])

    began = time.monotonic()
    counts = await asyncio.gather(*(one(number) for number in range(num_requests)))
    assert sum(counts) == num_requests * num_tokens
    return sum(counts) / (time.monotonic() - began)


@pytest.mark.gpu(
    "tokens per second with seeds, logprobs and LoRA over plain decoding",
    ", ".join(f"{name} >= {least} (CPU: {LEAST_CPU[name]})" for name, least in LEAST.items()),
)
@pytest.mark.long
@pytest.mark.parametrize("num_requests", [16, 64, 128, 256])
def test_what_training_asks_for_costs_little_of_the_decoding(
    num_requests: int, report: Report, device: str, sampler: Sampler, run: RunInLoop
) -> None:
    if device == "cpu" and num_requests > 16:
        pytest.skip("waits for a GPU: an engine on the CPU is busy with 16 requests")
    num_tokens = 256 if device == "cuda" else 24
    found: dict[str, float] = dict.fromkeys(VARIANTS, 0.0)
    for number, (name, variant) in itertools.product(range(NUM_ROUNDS + 1), VARIANTS.items()):
        speed = run(decode(sampler, variant, num_requests=num_requests, num_tokens=num_tokens))
        if number:  # the first round warms up
            found[name] = max(found[name], speed)
    least = LEAST if device == "cuda" else LEAST_CPU
    ratios = {name: found[name] / found["plain"] for name in least}
    measured = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    report(
        f"{found['plain']:,.0f} tokens/s; {measured}",
        passed=all(ratios[name] >= share for name, share in least.items()),
    )


@pytest.mark.long
@pytest.mark.gpu(
    "largest gap between tokens while a policy is loaded and verified",
    f"< {PAUSE_SECONDS} s; CPU: < {PAUSE_SECONDS_CPU:g} s",
)
def test_sampling_goes_on_during_a_publish(
    report: Report, device: str, sampler: Sampler, policy: PolicyVersion, run: RunInLoop
) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    num_requests = 64 if device == "cuda" else 4
    moments: list[float] = []
    started = asyncio.Event()  # all requests decode

    async def stream(number: int) -> None:
        params = SamplingParams(
            temperature=1.0, max_tokens=1800, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
        )
        assert sampler._engine is not None
        async for _ in sampler._engine._engine.generate(
            {"prompt_token_ids": PROMPT}, params, request_id=f"{uuid4().hex}-{number}"
        ):
            moments.append(time.monotonic())
            if len(moments) >= 8 * num_requests:
                started.set()

    async def publish(version: int) -> tuple[float, float]:
        """Largest gaps before and during a publish."""
        moments.clear()
        started.clear()
        requests = [asyncio.create_task(stream(number)) for number in range(num_requests)]
        await started.wait()
        undisturbed = time.monotonic()
        await asyncio.sleep(1.0)
        begin = time.monotonic()
        verification = await sampler.load_policy(replace(policy, number=version), {version}, 0.1)
        end = time.monotonic()
        await asyncio.sleep(0.5)
        assert not any(request.done() for request in requests), "the completions ended before the publish"
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        assert verification.failure is None
        before, during = largest_gaps(moments, [undisturbed, begin, end])
        return before, during

    before, during = zip(*[run(publish(version)) for version in (2, 3, 4)], strict=True)
    limit = PAUSE_SECONDS if device == "cuda" else PAUSE_SECONDS_CPU
    report(f"{max(during):.2f} s, undisturbed {max(before):.2f} s", passed=max(during) < limit)
