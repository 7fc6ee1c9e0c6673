"""The real pool: vLLM in a Ray actor, on a tiny model with random weights, compared with transformers and peft."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from cluster.errors import ModelError, ResourcesError, SamplerError
from cluster.types import Completion, FinishReason, PolicyVersion
from rollout.orphans import shared_memory_files
from rollout.pool import RaySamplerPool
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from tests.rollout.conftest import LORA_RANK, MakeRequest, RunInLoop, TinyModel

pytestmark = pytest.mark.slow

T = TypeVar("T")
TEMPERATURE = 0.8
TOLERANCE = 1e-4  # nats; a wrong temperature or adapter is off by more than 0.1
SETTINGS = RolloutSettings(
    max_prompt_tokens=192,
    max_completion_tokens=64,
    enforce_eager=True,
    kv_cache_gib=0.25,
    cpus_per_sampler=1,
    weight_sync_mode="versions",
)


@pytest.fixture(scope="module")
def pool(local_ray: None, run: RunInLoop, tiny_model: TinyModel) -> Iterator[RaySamplerPool]:
    pool = RaySamplerPool(SETTINGS, model=tiny_model.path, lora_rank=LORA_RANK)
    run(pool.start())
    yield pool
    run(pool.close())


async def collect(completions: AsyncIterator[Completion]) -> list[Completion]:
    return sorted([completion async for completion in completions], key=lambda completion: completion.index)


async def inside(pool: RaySamplerPool, function: Callable[[Sampler], T]) -> T:
    """Call a function with the sampler in its actor."""
    actor = pool._lifecycle.replicas[0].actor
    assert actor is not None
    seen: T = await actor.__ray_call__.remote(function)
    return seen


def cache_path(sampler: Sampler) -> Path:
    assert sampler._adapter_cache is not None
    return sampler._adapter_cache.path


def cached_policies(sampler: Sampler) -> list[str]:
    return sorted(path.name for path in cache_path(sampler).glob("policy-*"))


def is_alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != "zombie")


def worst_gap(tiny_model: TinyModel, completions: Sequence[Completion], adapter_folder: Path | None = None) -> float:
    return max(
        abs(ours - theirs)
        for completion in completions
        for ours, theirs in zip(
            completion.sampler_logprobs,
            tiny_model.logprobs(completion, TEMPERATURE, adapter_folder),
            strict=True,
        )
    )


def is_text_of(completion: Completion, model: TinyModel) -> bool:
    """Return True if the text is that of its tokens, without an unfinished character at their end."""
    decoded = model.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    return decoded.startswith(completion.text) and set(decoded[len(completion.text) :]) <= {"\N{REPLACEMENT CHARACTER}"}


@pytest.mark.model_runner
def test_a_group_is_complete_and_has_the_logprobs_that_transformers_computes(
    pool: RaySamplerPool, run: RunInLoop, tiny_model: TinyModel, request_for: MakeRequest
) -> None:
    request = request_for("g")
    group = run(collect(pool.sample_group(request)))
    assert [completion.id for completion in group] == ["g-c0", "g-c1", "g-c2", "g-c3"]
    assert {(c.group_id, c.problem_id, c.prompt_ids) for c in group} == {("g", "p", request.prompt.token_ids)}
    assert {c.policy_version for c in group} == {0}
    assert all(is_text_of(completion, tiny_model) for completion in group)
    assert worst_gap(tiny_model, group) < TOLERANCE


@pytest.mark.model_runner
def test_a_seed_gives_the_same_group_again_and_different_completions_in_it(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest
) -> None:
    async def texts(seed: int) -> list[str]:
        return [completion.text for completion in await collect(pool.sample_group(request_for("g", seed=seed)))]

    first, again, other = run(texts(7)), run(texts(7)), run(texts(1000))
    assert first == again
    assert len({*first, *other}) == 8


def test_a_stop_string_is_kept_in_the_text_and_the_tokens_are_all_that_were_sampled(
    pool: RaySamplerPool, run: RunInLoop, tiny_model: TinyModel, request_for: MakeRequest
) -> None:
    group = run(collect(pool.sample_group(request_for("g", size=16, tokens=64, stop=("i",)))))
    end = tiny_model.tokenizer.eos_token_id
    stopped = [c for c in group if c.finish_reason is FinishReason.STOP and c.token_ids[-1] != end]
    decoded = {c.index: tiny_model.tokenizer.decode(c.token_ids) for c in stopped}
    assert all(c.text.endswith("i") and c.text.count("i") == 1 for c in stopped)
    assert all(decoded[c.index].startswith(c.text) for c in stopped)
    assert any(decoded[c.index] != c.text for c in stopped)  # the stop string ended inside a token at least once
    assert worst_gap(tiny_model, group) < TOLERANCE


def test_a_completion_ends_at_its_length_or_with_the_end_token_among_its_ids(
    pool: RaySamplerPool, run: RunInLoop, tiny_model: TinyModel, request_for: MakeRequest
) -> None:
    group = run(collect(pool.sample_group(request_for("g", size=48, tokens=64, stop=()))))
    end = tiny_model.tokenizer.eos_token_id
    for completion in group:
        stopped = completion.finish_reason is FinishReason.STOP
        assert (completion.token_ids[-1] == end) == stopped
        assert end not in completion.token_ids[:-1]
        assert "<|end|>" not in completion.text
        assert stopped or len(completion.token_ids) == 64
    assert {completion.finish_reason for completion in group} == {FinishReason.STOP, FinishReason.LENGTH}


def test_special_tokens_stay_in_the_text_if_the_prompt_keeps_them(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest, tiny_model: TinyModel
) -> None:
    request = request_for("g", size=48, tokens=64, stop=())
    thinking = replace(request, prompt=replace(request.prompt, keeps_special_tokens=True, opened_thought="[THINK]"))
    group, plain = (run(collect(pool.sample_group(one))) for one in (thinking, request))
    assert [completion.token_ids for completion in group] == [completion.token_ids for completion in plain]
    stopped = [c.index for c in group if c.finish_reason is FinishReason.STOP]
    assert stopped == [c.index for c in group if c.text.endswith("<|end|>")] != []
    assert {(c.opened_thought, p.opened_thought) for c, p in zip(group, plain, strict=True)} == {("[THINK]", "")}
    for completion in group:
        ends = completion.token_ends
        assert (
            len(ends) == len(completion.token_ids) and list(ends) == sorted(ends) and ends[-1] == len(completion.text)
        )
        for number, end in enumerate(ends, start=1):
            begun = tiny_model.tokenizer.decode(list(completion.token_ids[:number]), skip_special_tokens=False)
            assert "\ufffd" in begun or completion.text[:end] == begun  # the bytes of a character may be several tokens


def test_more_prompts_than_one_pass_of_the_engine_holds_are_all_sampled(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest
) -> None:
    # Prompts without a common prefix, so that the prefix cache serves none.
    requests = [
        replace(
            request,
            prompt=replace(request.prompt, token_ids=tuple(1 + (7 * n + i * (n + 3)) % 300 for i in range(190))),
        )
        for n, request in enumerate(request_for(f"many-{n}", size=2, tokens=4) for n in range(60))
    ]

    async def all_at_once() -> list[list[Completion]]:
        return await asyncio.gather(*(collect(pool.sample_group(request)) for request in requests))

    assert [len(group) for group in run(all_at_once())] == [2] * 60


def test_the_options_of_evaluation_reach_the_engine(
    pool: RaySamplerPool, run: RunInLoop, tiny_model: TinyModel, request_for: MakeRequest
) -> None:
    (greedy,) = run(collect(pool.sample_group(request_for("g", size=1, temperature=0.0, stop=()))))
    for option in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        group = run(collect(pool.sample_group(request_for("g", size=2, stop=(), **option))))
        assert {completion.token_ids for completion in group} == {greedy.token_ids}, option


@pytest.mark.model_runner
def test_an_adapter_changes_the_logprobs_as_in_peft(
    pool: RaySamplerPool,
    run: RunInLoop,
    tiny_model: TinyModel,
    policies: dict[int, PolicyVersion],
    adapter_folders: dict[int, Path],
    request_for: MakeRequest,
) -> None:
    (swap,) = run(pool.publish(policies[1]))
    assert swap.gap is not None and swap.gap < 1e-5
    assert 0 < swap.seconds < 30
    group = run(collect(pool.sample_group(request_for("g"))))
    assert {completion.policy_version for completion in group} == {1}
    assert worst_gap(tiny_model, group, adapter_folders[1]) < TOLERANCE
    assert worst_gap(tiny_model, group) > 0.1


@pytest.mark.model_runner
def test_a_running_group_ends_on_its_version_while_new_ones_use_the_next(
    pool: RaySamplerPool,
    run: RunInLoop,
    tiny_model: TinyModel,
    policies: dict[int, PolicyVersion],
    adapter_folders: dict[int, Path],
    request_for: MakeRequest,
) -> None:
    async def scenario() -> tuple[list[Completion], list[Completion]]:
        begun: list[int] = []
        running = pool.sample_group(request_for("old", size=8, tokens=64, stop=()), begun.append)
        first = asyncio.create_task(anext(running))  # reaches the engine in the next turn of the event loop
        await asyncio.sleep(0.02)
        assert begun == [1]
        await pool.publish(policies[2])
        new = asyncio.create_task(collect(pool.sample_group(request_for("new", size=8, tokens=64))))
        return [await first, *await collect(running)], await new

    old, new = run(scenario())
    assert {c.policy_version for c in old} == {1}
    assert {c.policy_version for c in new} == {2}
    assert worst_gap(tiny_model, old, adapter_folders[1]) < TOLERANCE
    assert worst_gap(tiny_model, new, adapter_folders[2]) < TOLERANCE


@pytest.mark.model_runner
def test_superseded_adapters_are_deleted_and_the_last_two_kept(
    pool: RaySamplerPool, run: RunInLoop, policies: dict[int, PolicyVersion]
) -> None:
    run(pool.publish(policies[3]))
    assert run(inside(pool, cached_policies)) == ["policy-2", "policy-3"]


@pytest.mark.model_runner
def test_an_adapter_that_vllm_refuses_is_an_error_and_the_pool_continues(
    pool: RaySamplerPool, run: RunInLoop, policies: dict[int, PolicyVersion], request_for: MakeRequest
) -> None:
    config = policies[4].adapter["adapter_config.json"].replace(b'"r": 12', b'"r": 24')
    broken = PolicyVersion(number=4, adapter={**policies[4].adapter, "adapter_config.json": config})
    with pytest.raises(ModelError, match="policy 4"):
        run(pool.publish(broken))
    assert run(inside(pool, cached_policies)) == ["policy-2", "policy-3"]
    assert {c.policy_version for c in run(collect(pool.sample_group(request_for("g"))))} == {3}


@pytest.mark.model_runner
def test_a_policy_is_published_once_and_in_order(
    pool: RaySamplerPool, run: RunInLoop, policies: dict[int, PolicyVersion]
) -> None:
    with pytest.raises(SamplerError, match="policy 3 comes after policy 3"):
        run(pool.publish(policies[3]))


@pytest.mark.model_runner
def test_an_aborted_group_leaves_the_engine(pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest) -> None:
    async def scenario() -> None:
        completions = pool.sample_group(request_for("g", size=64, tokens=64, stop=("i",)))
        await anext(completions)
        assert sum((await inside(pool, lambda sampler: sampler._num_running)).values()) > 0
        await completions.aclose()
        deadline = time.monotonic() + 5
        while sum((await inside(pool, lambda sampler: sampler._num_running)).values()):
            assert time.monotonic() < deadline
        assert pool._lifecycle.replicas[0].load == 0

    run(scenario())


def test_a_group_longer_than_the_engine_allows_is_refused(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest
) -> None:
    request = request_for("g")
    long = replace(request, sampling=replace(request.sampling, max_completion_tokens=300))
    with pytest.raises(SamplerError, match="were started for 256"):
        run(collect(pool.sample_group(long)))


@pytest.mark.model_runner
def test_a_sampler_whose_engine_hangs_is_replaced_and_its_group_completed_once_under_the_same_version(
    pool: RaySamplerPool,
    run: RunInLoop,
    tiny_model: TinyModel,
    adapter_folders: dict[int, Path],
    request_for: MakeRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> tuple[list[Completion], list[str], list[psutil.Process], Collection[str]]:
        pid = await inside(pool, lambda _: os.getpid())
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        engine_files = shared_memory_files(pid)
        completions = pool.sample_group(request_for("g", size=32, tokens=64, stop=("i",)))
        first = await anext(completions)
        for process in processes[1:]:
            process.suspend()
        monkeypatch.setattr(pool, "_settings", SETTINGS.model_copy(update={"request_deadline_seconds": 3.0}))
        rest = asyncio.create_task(collect(completions))
        while pool.usage().num_replicas:  # noqa: ASYNC110 - nothing signals the eviction
            await asyncio.sleep(0.05)
        monkeypatch.setattr(pool, "_settings", SETTINGS)
        return [first, *await rest], await inside(pool, cached_policies), processes, engine_files

    group, cache, processes, engine_files = run(scenario())
    assert len(processes) > 2
    assert [process for process in processes if is_alive(process)] == []
    assert len(engine_files) > 0
    assert [file for file in engine_files if Path(file).exists()] == []
    assert sorted(completion.index for completion in group) == list(range(32))
    assert {completion.policy_version for completion in group} == {3}
    assert worst_gap(tiny_model, group, adapter_folders[3]) < TOLERANCE
    assert "policy-3" in cache


@pytest.mark.model_runner
def test_a_closed_pool_leaves_no_process_and_no_file(
    pool: RaySamplerPool, run: RunInLoop, request_for: MakeRequest
) -> None:
    pid, cache = run(inside(pool, lambda sampler: (os.getpid(), cache_path(sampler))))
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(processes) > 2  # the engine and its worker
    assert any(file.is_socket() for file in cache.iterdir())  # between the engine and its worker
    run(pool.close())
    run(pool.close())
    _, alive = psutil.wait_procs(processes, timeout=120)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert not cache.exists()
    with pytest.raises(SamplerError, match="closed"):
        run(collect(pool.sample_group(request_for("g"))))


def test_a_missing_model_is_an_error_of_one_line(local_ray: None, run: RunInLoop) -> None:
    with pytest.raises(ModelError, match=r"model '/no/such/model' cannot be loaded: [^\n]*$"):
        run(RaySamplerPool(SETTINGS, model="/no/such/model", lora_rank=8).start())


def test_more_samplers_than_the_cluster_has_resources_for_are_refused_with_the_numbers(
    local_ray: None, run: RunInLoop
) -> None:
    settings = SETTINGS.model_copy(update={"num_samplers": 3, "cpus_per_sampler": 1.5})
    with pytest.raises(
        ResourcesError, match=r"samplers: 3 x \(1.5 CPU\) needed, each on one node; .* have 2 CPU, enough for 1 "
    ):
        run(RaySamplerPool(settings, model="any", lora_rank=8).start())
