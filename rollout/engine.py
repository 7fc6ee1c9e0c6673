"""The vLLM engine behind the few calls that a sampler makes; the only file that imports vLLM."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import uuid4

from cluster.errors import ModelError, SamplerError
from cluster.types import FinishReason, ProbePrompt, Sampling, VersionSpan
from rollout.engine_errors import processes_log_to, root_cause
from rollout.environment import compiler_variables, engine_arguments, environment_variables, socket_variables
from rollout.model import check_model, one_line
from rollout.settings import RolloutSettings
from rollout.weight_sync import BoundAdapter

if TYPE_CHECKING:
    from vllm import RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

SHUTDOWN_SECONDS = 12.0
"""Time for the engine's processes to end in good order (some 6 s on the CPU), which leaves no shared memory behind."""

DEATH_POLL_SECONDS = 1.0
"""How often a call that is waited for looks whether the engine still lives."""

BASE_VERSION = 0

REFUSALS = (OSError, ValueError, RuntimeError, ImportError, AttributeError, AssertionError, TypeError)
"""What vLLM raises at a model that it does not serve: its code for each architecture has errors of its own."""

AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter as vLLM names it.

    vLLM caches by ``version`` and ``folder``, so that neither may ever stand for other weights; by ``slot`` it knows
    what is loaded, so that a new adapter in the same slot changes running requests over.
    """

    version: int
    slot: int
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What the engine sampled for one request."""

    token_ids: tuple[int, ...]  # [T]
    logprobs: tuple[float, ...]  # [T]
    text: str
    finish_reason: FinishReason
    spans: tuple[VersionSpan, ...]  # as Engine.exchange labelled them, of T tokens together
    seconds: float


class Engine:
    """One vLLM engine and its processes."""

    def __init__(self, engine: "AsyncLLM", max_tokens: int, causes: Path) -> None:
        self._engine = engine
        self._causes = causes  # the exceptions of the engine's processes
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
        """Load the model and start the engine, whose processes meet in the folder ``sockets`` where its path is short enough.
        Raises ModelError with one line where that fails."""
        variables = environment_variables(settings, model) | socket_variables(sockets) | compiler_variables(settings)
        os.environ.update(variables)
        max_tokens = settings.max_prompt_tokens + settings.max_completion_tokens
        check_model(model, max_tokens, settings.tensor_parallel_size)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        _leave_logprobs_without_text()
        causes = sockets / f"engine-{uuid4().hex}.causes"
        try:
            with processes_log_to(causes, variables["VLLM_LOGGING_LEVEL"]):
                arguments = AsyncEngineArgs(**engine_arguments(settings, model, lora_rank, lora_targets, max_staleness))
                config = arguments.create_engine_config()
                _check_attention(config, model)
                started = AsyncLLM.from_vllm_config(config, disable_log_stats=arguments.disable_log_stats)
            engine = cls(started, max_tokens, causes)
        except REFUSALS as error:
            raise ModelError(
                f"vLLM does not start with model {model!r}: {root_cause(causes, error)} (more in the sampler's log)"
            ) from error
        await engine._engine.update_weight_version(str(BASE_VERSION))
        if settings.policy_swap != "merged":
            await engine._check_targets(lora_targets, model)
        return engine

    async def _check_targets(self, targets: Sequence[str], model: str) -> None:
        """Raise ModelError where vLLM has no layer that takes an adapter of a target."""
        without = await self._ask(self._engine.collective_rpc("without_lora", args=(list(targets),)), "does not answer")
        if without[0]:
            self.shutdown()
            raise ModelError(
                f"vLLM serves no adapter of {', '.join(without[0])} of model {model!r}: leave them out of "
                "learner.lora.target_modules, or set rollout.policy_swap=merged, which needs no LoRA in the engine"
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
        """Sample one completion of a prompt; cancelling the call takes it out of the engine.

        A stop string may end inside a token: the text is cut there, the tokens are not, so that the learner is given
        all that was sampled. The end-of-sequence token is among the tokens; as other special tokens it is in the text only
        with ``keeps_special_tokens``. Raises SamplerError.
        """
        begin = time.monotonic()
        params = _sampling_params(sampling, seed=seed, keeps_special_tokens=keeps_special_tokens)
        output = await self._run(token_ids, params, request_id, adapter)
        completion = output.outputs[0]
        if completion.finish_reason not in tuple(FinishReason):
            raise SamplerError(f"the engine broke {request_id} off: {completion.finish_reason}")
        sampled = Sampled(
            token_ids=tuple(completion.token_ids),
            logprobs=tuple(completion.logprobs.logprobs),
            text=completion.text,
            finish_reason=FinishReason(completion.finish_reason),
            spans=tuple(
                VersionSpan(policy_version=int(span.version), num_tokens=span.end - span.start)
                for span in completion.weight_versions
                if span.end > span.start
            ),
            seconds=time.monotonic() - begin,
        )
        num_in_spans = sum(span.num_tokens for span in sampled.spans)
        if tuple(completion.logprobs.token_ids) != sampled.token_ids or num_in_spans != len(sampled.token_ids):
            raise SamplerError(
                f"{request_id} came back with {len(sampled.token_ids)} tokens, {len(sampled.logprobs)} log-probabilities "
                f"and versions of {num_in_spans} tokens: this vLLM is not the version Caravan pins"
            )
        return sampled

    async def score(self, probe: ProbePrompt, *, request_id: str, adapter: Adapter | None) -> tuple[float, ...]:
        """Return the log-probabilities of a probe prompt's tokens but the first, ``[N - 1]``, at temperature 1.

        It goes the way of every request; only the prefix cache is not read, for that holds no log-probabilities.
        Raises ModelError for a probe prompt that is too long, SamplerError.
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
            raise SamplerError(f"{request_id} came back with other tokens: this vLLM is not the version Caravan pins")
        return tuple(scored.logprobs)

    async def forget_prompts(self) -> None:
        """Empty the prefix cache, so that what is sampled next is computed as on a fresh engine."""
        await self._ask(self._engine.reset_prefix_cache(), "does not empty its prefix cache")

    async def load(self, adapter: Adapter) -> None:
        """Load an adapter into its slot, in place of what is there.

        Raises ModelError where vLLM refuses it, SamplerError where the engine died.
        """
        await self._ask(
            self._engine.add_lora(_lora_request(adapter, load_inplace=True)),
            f"does not load the adapter of policy {adapter.version}",
        )

    async def drop(self, adapter: Adapter) -> None:
        """Forget an adapter; no request may name it any more."""
        await self._ask(
            self._engine.remove_lora(adapter.slot), f"does not drop the adapter of policy {adapter.version}"
        )

    async def bound(self, adapter: Adapter) -> BoundAdapter:
        """What the engine holds of a loaded adapter."""
        call = self._engine.collective_rpc("bound_modules", args=(adapter.slot, str(adapter.folder)))
        shown = await self._ask(call, f"does not show the adapter of policy {adapter.version}")
        named, bound, differing = zip(*shown, strict=True)  # of each rank, of which each has its part of every module
        return BoundAdapter(
            named=tuple(named[0]),
            bound=tuple(sorted(set.intersection(*map(set, bound)))),
            differing=tuple(sorted(set.union(*map(set, differing)))),
        )

    async def reload(self, folder: Path, version: int) -> None:
        """Replace the weights of the model by those of a folder.

        Raises SamplerError where that fails on the way, for then nobody knows what the engine serves.
        """
        call = self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        try:
            await self._ask(call, f"does not load the merged weights of policy {version}")
        except ModelError as error:
            raise SamplerError(str(error)) from error

    @asynccontextmanager
    async def exchange(self, version: int) -> AsyncIterator[None]:
        """Hold all requests while their weights are exchanged; from then on their tokens are labelled ``version``.

        What was computed under the old weights is thrown away: running requests are prefilled again. With their old KV
        cache, tokens would come from neither policy.
        """
        await self._ask(self._engine.pause_generation(mode="keep", clear_cache=True), "does not pause")
        try:
            yield
            await self._ask(self._engine.update_weight_version(str(version)), "does not take a new version label")
        finally:
            await self._ask(self._engine.resume_generation(), "does not go on after a pause")

    def shutdown(self) -> None:
        """Stop the engine and its processes; takes up to SHUTDOWN_SECONDS."""
        self._engine.shutdown(SHUTDOWN_SECONDS)

    async def _ask(self, call: Awaitable[AnswerT], refusal: str) -> AnswerT:
        """Await a call to the engine's worker; raises ModelError where it refuses, SamplerError where it is dead.

        vLLM leaves a call unanswered for ever whose engine died on the way, so that is looked at while it is waited for.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        answer = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait({answer}, timeout=DEATH_POLL_SECONDS))[0]:
                if self._engine.errored:
                    raise EngineDeadError
            return await answer
        except EngineDeadError as error:
            raise SamplerError(f"vLLM {refusal}: its engine died of {root_cause(self._causes, error)}") from error
        except Exception as error:  # vLLM hands over whatever its worker raised as a plain Exception
            raise ModelError(f"vLLM {refusal}: {one_line(error)}") from error
        finally:
            answer.cancel()

    async def _run(
        self, token_ids: Sequence[int], params: "SamplingParams", request_id: str, adapter: Adapter | None
    ) -> "RequestOutput":
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        try:
            async for output in self._engine.generate(
                {"prompt_token_ids": list(token_ids)},
                params,
                request_id=request_id,
                lora_request=None if adapter is None else _lora_request(adapter),
            ):
                ended = output
        except (EngineDeadError, EngineGenerateError) as error:
            raise SamplerError(f"the engine failed at {request_id}: {root_cause(self._causes, error)}") from error
        return ended


def inspect_model(settings: RolloutSettings, *, model: str, lora_rank: int, max_staleness: int) -> None:
    """Raise ModelError, with one line, for a model that an engine would refuse by its configuration; no weights are loaded."""
    check_model(model, settings.max_prompt_tokens + settings.max_completion_tokens, settings.tensor_parallel_size)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.model_executor.models.interfaces import supports_lora

    try:
        config = AsyncEngineArgs(
            **engine_arguments(settings, model, lora_rank, (), max_staleness)
        ).create_engine_config()
        _check_attention(config, model)
        shown = config.model_config
        layers, name = shown.registry.resolve_model_cls(shown.architectures, shown)
        if settings.policy_swap != "merged" and not supports_lora(layers):
            raise ValueError(f"{name} does not support LoRA yet; rollout.policy_swap=merged needs none")
    except REFUSALS as error:
        raise ModelError(f"vLLM does not start with model {model!r}: {one_line(error)}") from error


def _leave_logprobs_without_text() -> None:
    """Keep vLLM from decoding every token once more, as text beside its log-probability, which nobody here reads.

    That takes a quarter of what a sampler's process does; vLLM offers it only together with going without stop strings.
    """
    from vllm.v1.engine import EngineCoreRequest, output_processor
    from vllm.v1.engine.logprobs import LogprobsProcessor

    class WithoutText(LogprobsProcessor):  # type: ignore[misc]  # vLLM is not typed
        @classmethod
        def from_new_request(cls, tokenizer: object, request: EngineCoreRequest) -> "WithoutText":  # noqa: ARG003
            return cast("WithoutText", super().from_new_request(None, request))

    output_processor.LogprobsProcessor = WithoutText


def leave_experts_without_lora() -> None:
    """Keep vLLM on the CPU from computing experts with kernels for LoRA, which are Triton's and made for GPUs.

    vLLM 0.32 takes them wherever an engine has LoRA at all; no adapter of ours has weights of experts.
    """
    from vllm.model_executor.layers.fused_moe import layer
    from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig
    from vllm.platforms import current_platform

    def without_lora(*args: Any, **kwargs: Any) -> Any:
        return FusedMoEConfig(*args, **kwargs | {"is_lora_enabled": False})

    if current_platform.is_cpu():
        layer.FusedMoEConfig = without_lora


def take_fused_projections_whole() -> None:
    """Let vLLM load the adapter of a projection that is fused in the checkpoint too, where it expects those of its parts.

    GLM-4 has ``gate_up_proj`` in transformers as in vLLM, whose mapping of it to ``gate_proj`` and ``up_proj`` is Llama's. A
    target of the adapter that has the name of the packed layer is that layer.
    """
    from vllm.lora.model_manager import LoRAModelManager

    create_modules = LoRAModelManager._create_lora_modules

    def with_whole(self: Any) -> None:
        whole = set(self.lora_config.target_modules or ()) & self.packed_modules_mapping.keys()
        self.packed_modules_mapping = self.packed_modules_mapping | {name: [name] for name in whole}
        create_modules(self)

    LoRAModelManager._create_lora_modules = with_whole


def _check_attention(config: Any, model: str) -> None:
    """Raise ModelError for heads that vLLM's attention on the CPU cannot compute; the engine would die of its first prompt."""
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
        load_inplace=load_inplace,  # never on a request that samples: vLLM would load it again for every token
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
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
