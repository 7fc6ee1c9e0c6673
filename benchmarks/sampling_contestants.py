"""Contestants that sample the same groups: plain ``vllm.LLM.generate``, and Caravan's sampler pool.

Each contestant runs in its own process (``benchmarks.contestants``) and runs turns:

- ``{"requests": [...], "with_adapter": bool}`` samples groups and measures the sampling;
- ``{"num_running": n, "num_live": v}`` (only plain vLLM) times an engine step with n completions under v adapters;
- ``{"problems": [...]}`` (only Caravan) grades the last samples and measures the driver's process.
"""

import asyncio
import itertools
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.contestants import ContestError, Link
from cluster.types import Completion, GroupRequest, PolicyVersion, ProbePrompt, Problem, Sampling
from grader.settings import GraderSettings
from learner.adapter_folder import read_adapter
from rollout.environment import engine_arguments, environment_variables
from rollout.settings import RolloutSettings

CALIBRATION_TOKENS = 64
_FIRST_SEED = 1 << 40  # first seed of the calibration, beyond those of the rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """Settings of a contestant."""

    rollout: RolloutSettings
    grader: GraderSettings
    model: str
    lora_rank: int
    max_staleness: int
    adapters: tuple[Path, ...]  # PEFT folders; one if the policy does not change


def sampling_result(seconds: float, sampled: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the measurements of a turn, with sampled tokens by completion id for comparison."""
    return {"seconds": seconds, "sampled": sampled, "num_tokens": sum(map(len, sampled.values()))}


def plain_vllm(link: Link, settings: SamplingSettings) -> None:
    """``vllm.LLM.generate`` on all completions of a round at once, with Caravan's engine arguments."""
    os.environ.update(environment_variables(settings.rollout, settings.model))
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind

    arguments = engine_arguments(settings.rollout, settings.model, settings.lora_rank, (), settings.max_staleness)
    del arguments["enable_log_requests"]  # only AsyncLLM has it
    engine = LLM(**arguments)
    adapters = [
        LoRARequest(f"policy-{number}", number, str(path)) for number, path in enumerate(settings.adapters, start=1)
    ]

    def parameters(sampling: Sampling, seed: int, **more: Any) -> SamplingParams:
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=1.0,
            top_k=0,
            min_p=0.0,
            seed=seed,
            max_tokens=sampling.max_completion_tokens,
            stop=list(sampling.stop),
            include_stop_str_in_output=True,
            logprobs=0,
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **more,
        )

    def run_turn(turn: Mapping[str, Any]) -> dict[str, Any]:
        if "num_running" in turn:
            return step_seconds(turn["num_running"], turn["num_live"], turn["prompt_ids"])
        requests: Sequence[GroupRequest] = turn["requests"]
        requested = [(request, index) for request in requests for index in range(request.group_size)]
        began = time.perf_counter()
        outputs = engine.generate(
            [{"prompt_token_ids": list(request.prompt.token_ids)} for request, _ in requested],
            [parameters(request.sampling, request.seed + index) for request, index in requested],
            use_tqdm=False,
            lora_request=adapters[0] if turn["with_adapter"] else None,
        )
        seconds = time.perf_counter() - began
        names = [f"{request.group_id}-c{index}" for request, index in requested]
        return sampling_result(
            seconds,
            {name: tuple(output.outputs[0].token_ids) for name, output in zip(names, outputs, strict=True)},
        )

    def step_seconds(num_running: int, num_live: int, prompt_ids: Sequence[int]) -> dict[str, Any]:
        """Return seconds per engine step under several adapters, from the difference of a long and a short run."""
        live = list(itertools.islice(itertools.cycle(adapters[:num_live]), num_running))
        durations = []
        for num_tokens in (CALIBRATION_TOKENS // 4, CALIBRATION_TOKENS):
            sampling = Sampling(temperature=1.0, max_completion_tokens=num_tokens, stop=())
            began = time.perf_counter()
            engine.generate(
                [{"prompt_token_ids": list(prompt_ids)}] * num_running,
                [parameters(sampling, _FIRST_SEED + index, ignore_eos=True) for index in range(num_running)],
                use_tqdm=False,
                lora_request=live,
            )
            durations.append(time.perf_counter() - began)
        return {"step_seconds": (durations[1] - durations[0]) / (CALIBRATION_TOKENS * 3 // 4)}

    link.serve(run_turn)
    engine.llm_engine.engine_core.shutdown()  # otherwise this process waits for the engine's process


def caravan_pool(link: Link, settings: SamplingSettings) -> None:
    """Caravan's sampler pool with one sampler; all groups of a round are requested at once."""
    asyncio.run(_caravan_pool(link, settings))


async def _caravan_pool(link: Link, settings: SamplingSettings) -> None:
    from cluster.placement.ray_cluster import ray_cluster
    from rollout.pool import RaySamplerPool

    os.environ["RAY_ADDRESS"] = "local"  # its own Ray, independent of others on this machine
    with ray_cluster(print):
        pool = RaySamplerPool(
            settings.rollout,
            model=settings.model,
            lora_rank=settings.lora_rank,
            max_staleness=settings.max_staleness,
        )
        try:
            await pool.start()
            link.send({})
            has_adapter = False
            completions: list[Completion] = []
            while (turn := await asyncio.to_thread(link.receive)) is not None:
                if "problems" in turn:
                    link.send(await _grade(settings.grader, completions, turn["problems"]))
                    continue
                if turn["with_adapter"] and not has_adapter:
                    await pool.publish(policy_from(settings.adapters[0], 1))
                    has_adapter = True
                cpu_before = time.process_time()
                began = time.perf_counter()
                groups = await asyncio.gather(*(_group(pool, request) for request in turn["requests"]))
                seconds = time.perf_counter() - began
                completions = [completion for group in groups for completion in group]
                driver = {"driver_cpu_seconds": time.process_time() - cpu_before}
                link.send({**sampling_result(seconds, {one.id: one.token_ids for one in completions}), **driver})
        finally:
            await pool.close()


async def _grade(
    settings: GraderSettings, completions: Sequence[Completion], problems: Mapping[str, Problem]
) -> dict[str, Any]:
    """Grade all completions at once with one grader; equal texts of a problem are graded and counted once."""
    from grader.pool import RayGraderPool

    pool = RayGraderPool(settings.model_copy(update={"num_graders": 1}))
    try:
        await pool.start()
        unique = {(completion.problem_id, completion.text): completion for completion in completions}.values()
        cpu_before, began = time.process_time(), time.perf_counter()
        await asyncio.gather(*(pool.grade(problems[completion.problem_id], completion) for completion in unique))
        return {
            "num_completions": len(unique),
            "driver_cpu_seconds": time.process_time() - cpu_before,
            "seconds": time.perf_counter() - began,
        }
    finally:
        await pool.close()


async def _group(pool: Any, request: GroupRequest) -> list[Completion]:
    return [completion async for completion in pool.sample_group(request)]


def make_adapter(model: str, rank: int, folder: Path, probe_ids: Sequence[int], seed: int) -> None:
    """Make a LoRA adapter like one after some training steps, with small weights in every trained projection.

    Writes a PEFT adapter and ``probe.json``, the log-probabilities of the probe prompt by transformers, to ``folder``.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from learner.lora_settings import LoraSettings
    from learner.training.targets import target_names

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    targets = target_names(base, LoraSettings(), model)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    tuned = get_peft_model(base, lora)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=1e-3)
    tuned.save_pretrained(folder)
    ids = torch.tensor([list(probe_ids)])
    with torch.no_grad():
        scores = tuned.eval()(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
    probe = {"token_ids": list(probe_ids), "logprobs": scores.tolist()}
    (folder / "probe.json").write_text(json.dumps(probe))


def policy_from(folder: Path, number: int) -> PolicyVersion:
    """Return the adapter of a folder as a policy."""
    policy = PolicyVersion(number=number, adapter=read_adapter(folder).files)
    probe = {name: tuple(values) for name, values in json.loads((folder / "probe.json").read_text()).items()}
    return replace(policy, probes=(ProbePrompt(**probe),))


def in_a_process(work: Callable[..., None], *arguments: object) -> None:
    """Call a function in its own process, so that its imports and processes end with it."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise ContestError(f"{work.__name__} ended with exit code {process.exitcode}")
