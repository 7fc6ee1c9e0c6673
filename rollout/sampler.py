"""One vLLM engine that samples groups under versioned LoRA adapters; the only file that imports vLLM.

How a policy version comes and goes, without the engine ever pausing::

    files on the shelf -> add_lora -> new requests name it -> a later version takes over -> its last request ends
    -> remove_lora -> files deleted

The order is not a matter of taste: a request that names an adapter whose files are gone kills the whole engine, and
an adapter reloaded under an old name or path is served with the old one's cached prefixes.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.types import Completion, FinishReason, GroupRequest, ModelError, PolicyVersion, SamplerError, Sampling
from rollout.environment import engine_arguments, environment_variables
from rollout.model import check_model, one_line
from rollout.settings import RolloutSettings, check_lora_rank
from rollout.shelf import AdapterShelf

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

ENGINE_SHUTDOWN_SECONDS = 12.0
"""Time for the engine's processes to end in good order (some 6 s on the CPU), which leaves no shared memory behind."""


class Sampler:
    """An engine and the policy versions that it can sample from; version 0 is the base model."""

    def __init__(self, settings: RolloutSettings, *, model: str, lora_rank: int) -> None:
        check_lora_rank(lora_rank)
        self._settings = settings
        self._model = model
        self._lora_rank = lora_rank
        self._engine: AsyncLLM | None = None
        self._shelf: AdapterShelf | None = None
        self._adapters: dict[int, LoRARequest] = {}
        self._num_running: Counter[int] = Counter()  # requests in the engine, by policy version

    async def start(self) -> None:
        """Load the model and start the engine; raises ModelError with one line where that fails."""
        os.environ.update(environment_variables(self._settings, self._model))
        check_model(self._model, self._settings.max_prompt_tokens + self._settings.max_completion_tokens)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        try:
            arguments = AsyncEngineArgs(**engine_arguments(self._settings, self._model, self._lora_rank))
            self._engine = AsyncLLM.from_engine_args(arguments)
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelError(
                f"vLLM does not start with model {self._model!r}: {one_line(error)} (more in the sampler's log)"
            ) from error
        self._shelf = AdapterShelf()

    async def load_policy(self, policy: PolicyVersion, live_versions: Collection[int]) -> None:
        """Make a policy ready to be sampled from, then drop idle ones that are not among ``live_versions``.

        Raises ModelError where vLLM refuses the adapter, ResourcesError where it finds no room, SamplerError where the
        engine died.
        """
        engine, shelf = self._started()
        # Chosen before the engine is spoken to: an ended request may still be in its queue, ahead of what follows.
        idle = [
            version for version in self._adapters if version not in live_versions and not self._num_running[version]
        ]
        if policy.number not in self._adapters:
            folder = await asyncio.to_thread(shelf.put, policy.number, policy.adapter)
            adapter = _lora_request(policy.number, folder)
            try:
                await _ask_engine(engine.add_lora(adapter), f"does not load the adapter of policy {policy.number}")
            except ModelError:
                await asyncio.to_thread(shelf.remove, policy.number)
                raise
            self._adapters[policy.number] = adapter
        for version in idle:
            adapter = self._adapters.pop(version)
            await _ask_engine(engine.remove_lora(adapter.lora_int_id), f"does not drop the adapter of policy {version}")
            await asyncio.to_thread(shelf.remove, version)

    async def sample(
        self, request: GroupRequest, indexes: Sequence[int], policy_version: int
    ) -> AsyncGenerator[Completion]:
        """Yield the completions of a group that are asked for, each as it ends.

        Closing the iterator takes the others out of the engine. Raises SamplerError where the engine died.
        """
        tasks = [asyncio.create_task(self._complete(request, index, policy_version)) for index in indexes]
        try:
            for next_ended in asyncio.as_completed(tasks):
                yield await next_ended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def shutdown(self) -> None:
        """Stop the engine and its processes and delete the adapters; may be called twice."""
        if self._engine is not None:
            await asyncio.to_thread(self._engine.shutdown, ENGINE_SHUTDOWN_SECONDS)
            self._engine = None
        if self._shelf is not None:
            self._shelf.close()
            self._shelf = None

    async def _complete(self, request: GroupRequest, index: int, policy_version: int) -> Completion:
        """Sample one completion: a request of its own, so that it is handed over without waiting for its group."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        engine, _ = self._started()
        adapter = self._adapters[policy_version] if policy_version else None
        completion_id = f"{request.group_id}-c{index}"
        begin = time.monotonic()
        self._num_running[policy_version] += 1
        try:
            async for output in engine.generate(
                {"prompt_token_ids": list(request.prompt.token_ids)},
                _sampling_params(request.sampling, seed=request.seed + index),
                request_id=completion_id,
                lora_request=adapter,
            ):
                ended = output
        except (EngineDeadError, EngineGenerateError) as error:
            raise SamplerError(f"the engine failed at completion {completion_id}: {one_line(error)}") from error
        finally:
            self._num_running[policy_version] -= 1
        return _completion(request, index, policy_version, ended, seconds=time.monotonic() - begin)

    def _started(self) -> "tuple[AsyncLLM, AdapterShelf]":
        if self._engine is None or self._shelf is None:
            raise SamplerError("the sampler has no engine: it was not started, or was shut down")
        return self._engine, self._shelf


def _lora_request(version: int, folder: Path) -> "LoRARequest":
    """Name an adapter; vLLM caches by all three of these, so that no version may ever reuse one of another's."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=f"policy-{version}", lora_int_id=version, lora_path=str(folder))


async def _ask_engine(call: Awaitable[bool], refusal: str) -> None:
    """Await a call to the engine's worker; raises ModelError where it refuses, SamplerError where it is dead."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        await call
    except EngineDeadError as error:
        raise SamplerError(f"vLLM {refusal}: its engine died") from error
    except Exception as error:  # vLLM hands over whatever its worker raised as a plain Exception
        raise ModelError(f"vLLM {refusal}: {one_line(error)}") from error


def _sampling_params(sampling: Sampling, *, seed: int) -> "SamplingParams":
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=1.0,
        top_k=0,  # off
        min_p=0.0,
        seed=seed,
        max_tokens=sampling.max_completion_tokens,
        stop=list(sampling.stop),
        include_stop_str_in_output=True,
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completion(
    request: GroupRequest, index: int, policy_version: int, output: "RequestOutput", *, seconds: float
) -> Completion:
    """Turn what vLLM returns into the record, with exactly one log-probability per sampled token.

    A stop string may end inside a token: the text is cut there, the tokens are not, so that the learner is given all
    that was sampled. The end-of-sequence token is among the tokens and not in the text.
    """
    sampled = output.outputs[0]
    logprobs = sampled.logprobs
    token_ids = tuple(sampled.token_ids)
    if tuple(logprobs.token_ids) != token_ids or sampled.finish_reason not in tuple(FinishReason):
        raise SamplerError(
            f"completion {request.group_id}-c{index} came back with {len(token_ids)} tokens, {len(logprobs.logprobs)} "
            f"log-probabilities and finish reason {sampled.finish_reason!r}: this vLLM is not the version Caravan pins"
        )
    return Completion(
        id=f"{request.group_id}-c{index}",
        group_id=request.group_id,
        problem_id=request.prompt.problem_id,
        index=index,
        prompt_ids=request.prompt.token_ids,
        token_ids=token_ids,
        sampler_logprobs=tuple(logprobs.logprobs),
        text=sampled.text,
        finish_reason=FinishReason(sampled.finish_reason),
        policy_version=policy_version,
        seconds=seconds,
    )
