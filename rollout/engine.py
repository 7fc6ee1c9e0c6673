"""The vLLM engine, as the few calls that a sampler makes; only this file and ``patches.py`` import vLLM."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from cluster.errors import ModelError, SamplerError
from cluster.types import FinishReason, ProbePrompt, Sampling, VersionSpan
from rollout.engine_errors import processes_log_to, root_cause
from rollout.environment import engine_arguments, environment_variables, folder_variables
from rollout.model import check_model, one_line
from rollout.patches import record_token_ends, skip_logprob_texts
from rollout.settings import RolloutSettings
from rollout.weight_sync import Adapter, BoundAdapter
from rollout.weight_sync_modes import BASE_VERSION, weight_sync_mode

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.config import VllmConfig
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

SHUTDOWN_SECONDS = 12.0
"""Deadline for the engine's processes to stop cleanly (about 6 s on the CPU), without shared memory left over."""

DEATH_POLL_SECONDS = 1.0
"""Interval at which a pending call checks that the engine is alive."""

REFUSALS = (OSError, ValueError, RuntimeError, ImportError, AttributeError, AssertionError, TypeError)
"""Exceptions of vLLM for a model that it does not serve: the code of each architecture raises its own."""

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One sampled completion of a request."""

    token_ids: tuple[int, ...]  # [T]
    logprobs: tuple[float, ...]  # [T]
    text: str
    token_ends: tuple[int, ...]  # [T], position in the text where each token ends
    finish_reason: FinishReason
    spans: tuple[VersionSpan, ...]  # labels of Engine.exchange; their lengths sum to T
    seconds: float


class Engine:
    """One vLLM engine and its processes."""

    def __init__(self, engine: "AsyncLLM", max_tokens: int, causes: Path) -> None:
        self._engine = engine
        self._causes = causes  # file with the exceptions of the engine's processes
        self._max_tokens = max_tokens  # of a prompt and its completion together

    @classmethod
    async def start(
        cls,
        settings: RolloutSettings,
        *,
        model: str,
        lora_rank: int,
        lora_targets: Sequence[str],
        max_staleness: int,
        sockets: Path,
    ) -> "Engine":
        """Load the model and start the engine, with its sockets in the folder ``sockets`` if that path is short enough.

        Raises ModelError with one line when that fails.
        """
        variables = environment_variables(settings, model) | folder_variables(settings, sockets)
        os.environ.update(variables)
        max_tokens = settings.max_prompt_tokens + settings.max_completion_tokens
        check_model(model, max_tokens, settings.tensor_parallel_size)
        from vllm.v1.engine.async_llm import AsyncLLM

        skip_logprob_texts()
        record_token_ends()
        causes = sockets / f"engine-{uuid4().hex}.causes"
        try:
            with processes_log_to(causes, variables["VLLM_LOGGING_LEVEL"]):
                config = engine_config(settings, model, lora_rank, lora_targets, max_staleness)
                started = AsyncLLM.from_vllm_config(config, disable_log_stats=True)
            engine = cls(started, max_tokens, causes)
        except REFUSALS as error:
            raise ModelError(
                f"{_no_start(settings, model)}: {root_cause(causes, error)} (more in the sampler's log)"
            ) from error
        await engine._engine.update_weight_version(str(BASE_VERSION))
        if weight_sync_mode(settings).uses_lora:
            await engine._check_targets(lora_targets, model)
        return engine

    async def _check_targets(self, targets: Sequence[str], model: str) -> None:
        """Raise ModelError when no layer of vLLM supports LoRA for one of the targets."""
        call = self._engine.collective_rpc("targets_without_lora", args=(list(targets),))
        unsupported = (await self._await(call, "does not answer"))[0]
        if unsupported:
            self.shutdown()
            raise ModelError(
                f"vLLM serves no adapter of {', '.join(unsupported)} of model {model!r}: remove them from "
                "learner.lora.target_modules, or set rollout.weight_sync_mode=merged, which needs no LoRA in the engine"
            )

    async def sample(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        *,
        seed: int,
        request_id: str,
        adapter: Adapter | None,
        keeps_special_tokens: bool = False,
    ) -> Sampled:
        """Sample one completion of a prompt; cancelling the call aborts the request.

        A stop string may end inside a token: the text is cut there and the tokens are not, so the learner gets every sampled
        token. The text omits a character at its end of which the tokens hold only some bytes. The tokens include the
        end-of-sequence token; the text includes it and other special tokens only with ``keeps_special_tokens``. Raises
        SamplerError.
        """
        begin = time.monotonic()
        params = _sampling_params(sampling, seed=seed, keeps_special_tokens=keeps_special_tokens)
        output = await self._run(token_ids, params, request_id, adapter)
        completion = output.outputs[0]
        if completion.finish_reason not in tuple(FinishReason):
            raise SamplerError(f"the engine aborted {request_id}: {completion.finish_reason}")
        num_tokens = len(completion.token_ids)
        sampled = Sampled(
            token_ids=tuple(completion.token_ids),
            logprobs=tuple(completion.logprobs.logprobs),
            text=completion.text,
            token_ends=tuple(min(end, len(completion.text)) for end in completion.token_ends[:num_tokens]),
            finish_reason=FinishReason(completion.finish_reason),
            spans=tuple(
                VersionSpan(policy_version=int(span.version), num_tokens=span.end - span.start)
                for span in completion.weight_versions
                if span.end > span.start
            ),
            seconds=time.monotonic() - begin,
        )
        num_in_spans = sum(span.num_tokens for span in sampled.spans)
        counts = {num_tokens, num_in_spans, len(sampled.token_ends)}
        if tuple(completion.logprobs.token_ids) != sampled.token_ids or len(counts) > 1:
            raise SamplerError(
                f"{request_id} returned {num_tokens} tokens, {len(sampled.logprobs)} log-probabilities, "
                f"{len(sampled.token_ends)} positions in the text and versions of {num_in_spans} tokens: the installed vLLM is "
                "not the pinned version"
            )
        return sampled

    async def score(self, probe: ProbePrompt, *, request_id: str, adapter: Adapter | None) -> tuple[float, ...]:
        """Return the log-probabilities of all tokens of a probe prompt but the first, ``[N - 1]``, at temperature 1.

        The request takes the path of every other request, except that it does not read the prefix cache, which holds no
        log-probabilities. Raises ModelError for a probe prompt that is too long, SamplerError.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        if len(probe.token_ids) >= self._max_tokens:
            raise ModelError(
                f"a probe prompt of {len(probe.token_ids)} tokens does not fit an engine that was started for "
                f"{self._max_tokens}, of which it samples one (rollout.max_prompt_tokens + rollout.max_completion_tokens)"
            )
        params = SamplingParams(
            temperature=1.0,
            max_tokens=1,
            prompt_logprobs=0,  # of the probe prompt's own tokens alone
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self._run(probe.token_ids, params, request_id, adapter)
        scored = output.prompt_logprobs
        if tuple(scored.token_ids) != probe.token_ids[1:]:
            raise SamplerError(f"{request_id} returned other tokens: the installed vLLM is not the pinned version")
        return tuple(scored.logprobs)

    async def reset_prefix_cache(self) -> None:
        """Empty the prefix cache, so that the next samples are computed as on a newly started engine."""
        await self._await(self._engine.reset_prefix_cache(), "does not empty its prefix cache")

    async def load(self, adapter: Adapter) -> None:
        """Load an adapter into its slot, replacing the adapter there.

        Raises ModelError when vLLM refuses it, SamplerError when the engine died.
        """
        await self._await(
            self._engine.add_lora(_lora_request(adapter, load_inplace=True)),
            f"does not load the adapter of policy {adapter.version}",
        )

    async def drop(self, adapter: Adapter) -> None:
        """Remove an adapter; no later request may name it."""
        await self._await(
            self._engine.remove_lora(adapter.slot), f"does not drop the adapter of policy {adapter.version}"
        )

    async def bound(self, adapter: Adapter) -> BoundAdapter:
        """Return the modules of a loaded adapter that the engine has bound."""
        call = self._engine.collective_rpc("bound_modules", args=(adapter.slot, str(adapter.folder)))
        by_rank = await self._await(call, f"does not show the adapter of policy {adapter.version}")
        named, bound, differing = zip(*by_rank, strict=True)  # each rank has its part of every module
        return BoundAdapter(
            named=tuple(named[0]),
            bound=tuple(sorted(set.intersection(*map(set, bound)))),
            differing=tuple(sorted(set.union(*map(set, differing)))),
        )

    async def reload(self, folder: Path, version: int) -> None:
        """Replace the weights of the model by those of a folder.

        Raises SamplerError when that fails: the engine's weights are undefined then.
        """
        call = self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        try:
            await self._await(call, f"does not load the merged weights of policy {version}")
        except ModelError as error:
            raise SamplerError(str(error)) from error

    async def transfer(self, folder: Path, version: int) -> dict[str, int]:
        """Replace the weights of the model by those of a folder, in place, by vLLM's weight-transfer API.

        Returns the checksum of what each layer loaded, which is the same on all ranks. Raises SamplerError when that fails: the
        engine's weights are undefined then.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        async def update() -> list[dict[str, int]]:
            await self._engine.start_weight_update()
            await self._engine.update_weights(WeightTransferUpdateRequest(update_info={"folder": str(folder)}))
            await self._engine.finish_weight_update()
            sums: list[dict[str, int]] = await self._engine.collective_rpc("loaded_weight_sums")
            return sums

        try:
            by_rank = await self._await(update(), f"does not load the weights of policy {version}")
        except ModelError as error:
            raise SamplerError(str(error)) from error
        wrong = [sums for sums in by_rank if sums != by_rank[0]]
        return wrong[0] if wrong else by_rank[0]

    @asynccontextmanager
    async def exchange(self, version: int) -> AsyncIterator[None]:
        """Pause all requests while the block replaces their weights; tokens sampled afterwards are labelled ``version``.

        The KV cache is cleared and running requests are prefilled again; with the old cache, tokens would mix two policies.
        """
        await self._await(self._engine.pause_generation(mode="keep", clear_cache=True), "does not pause")
        try:
            yield
            await self._await(self._engine.update_weight_version(str(version)), "does not accept a new version label")
        finally:
            await self._await(self._engine.resume_generation(), "does not resume after a pause")

    def shutdown(self) -> None:
        """Stop the engine and its processes; takes up to SHUTDOWN_SECONDS."""
        import psutil

        with suppress(psutil.NoSuchProcess):  # vLLM's kill_process_tree fails if a late engine ends just before
            self._engine.shutdown(SHUTDOWN_SECONDS)

    async def _await(self, call: Awaitable[AnswerT], refusal: str) -> AnswerT:
        """Await a call to the engine's worker; raises ModelError when it refuses, SamplerError when it is dead."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return await self._while_alive(call)
        except EngineDeadError as error:
            raise SamplerError(f"vLLM {refusal}: its engine died of {root_cause(self._causes, error)}") from error
        except Exception as error:  # vLLM turns every error of its worker into a plain Exception
            raise ModelError(f"vLLM {refusal}: {one_line(error)}") from error

    async def _run(
        self, token_ids: Sequence[int], params: "SamplingParams", request_id: str, adapter: Adapter | None
    ) -> "RequestOutput":
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        outputs = self._engine.generate(
            {"prompt_token_ids": list(token_ids)},
            params,
            request_id=request_id,
            lora_request=None if adapter is None else _lora_request(adapter),
        )
        try:
            return await self._while_alive(_last(outputs))
        except (EngineDeadError, EngineGenerateError) as error:
            raise SamplerError(f"the engine failed at {request_id}: {root_cause(self._causes, error)}") from error

    async def _while_alive(self, call: Awaitable[AnswerT]) -> AnswerT:
        """Await a call to vLLM, which never answers a call that it receives between its engine's death and noticing it.

        Raises EngineDeadError, and what vLLM raises.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        answer = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait({answer}, timeout=DEATH_POLL_SECONDS))[0]:
                if self._engine.errored:
                    raise EngineDeadError
            return await answer
        finally:
            answer.cancel()


async def _last(items: AsyncIterator[AnswerT]) -> AnswerT:
    """Return the last of at least one item."""
    async for item in items:
        last = item
    return last


def engine_config(
    settings: RolloutSettings, model: str, lora_rank: int, lora_targets: Sequence[str], max_staleness: int
) -> "VllmConfig":
    """Return vLLM's configuration of an engine. Raises ModelError, and what vLLM raises for a model that it does not serve."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    arguments = AsyncEngineArgs(**engine_arguments(settings, model, lora_rank, lora_targets, max_staleness))
    config = arguments.create_engine_config()
    _check_attention(config, model)
    return config


def inspect_model(settings: RolloutSettings, *, model: str, lora_rank: int, max_staleness: int) -> None:
    """Raise ModelError, with one line, for a model whose configuration an engine would refuse; loads no weights."""
    check_model(model, settings.max_prompt_tokens + settings.max_completion_tokens, settings.tensor_parallel_size)
    from vllm.model_executor.models.interfaces import supports_lora

    try:
        model_config = engine_config(settings, model, lora_rank, (), max_staleness).model_config
        layers, name = model_config.registry.resolve_model_cls(model_config.architectures, model_config)
        if weight_sync_mode(settings).uses_lora and not supports_lora(layers):
            raise ValueError(f"{name} does not support LoRA yet; rollout.weight_sync_mode=merged needs none")
    except REFUSALS as error:
        raise ModelError(f"{_no_start(settings, model)}: {one_line(error)}") from error


def _no_start(settings: RolloutSettings, model: str) -> str:
    options = f" and rollout.engine={settings.engine}" if settings.engine else ""
    return f"vLLM does not start with model {model!r}{options}"


def _check_attention(config: Any, model: str) -> None:
    """Raise ModelError for attention heads that vLLM cannot compute on the CPU; the engine would die at its first prompt."""
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    size = config.model_config.get_head_size()
    sizes = CPUAttentionBackend.get_supported_head_sizes()
    uses_it = (
        current_platform.is_cpu() and not config.model_config.use_mla and not config.model_config.is_attention_free
    )
    if uses_it and size not in sizes:
        raise ModelError(
            f"model {model!r} has attention heads of {size} dimensions, and vLLM on the CPU computes heads of "
            f"{', '.join(map(str, sizes))}: take another model, or sample on a GPU (rollout.gpus_per_sampler)"
        )


def _lora_request(adapter: Adapter, *, load_inplace: bool = False) -> "LoRARequest":
    from vllm.lora.request import LoRARequest

    return LoRARequest(
        lora_name=f"policy-{adapter.version}",
        lora_int_id=adapter.slot,
        lora_path=str(adapter.folder),
        load_inplace=load_inplace,  # only to load: with it, vLLM would reload the adapter for every token of a request
    )


def _sampling_params(sampling: Sampling, *, seed: int, keeps_special_tokens: bool) -> "SamplingParams":
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=seed,
        max_tokens=sampling.max_completion_tokens,
        stop=list(sampling.stop),
        skip_special_tokens=not keeps_special_tokens,
        include_stop_str_in_output=True,
        logprobs=0,  # only of the sampled token
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
