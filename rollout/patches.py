"""Patches of vLLM, each with its reason."""

from collections.abc import Callable
from functools import cache
from typing import Any, cast


def skip_logprob_texts() -> None:
    """Patch vLLM not to return the text of each token with its log-probability: Caravan does not read these texts.

    vLLM decodes every token a second time for them, which takes a quarter of a sampler process's CPU time. vLLM's own option
    to disable the texts excludes stop strings.
    """
    from vllm.v1.engine import EngineCoreRequest, output_processor
    from vllm.v1.engine.logprobs import LogprobsProcessor

    class WithoutText(LogprobsProcessor):  # type: ignore[misc]  # vLLM is not typed
        @classmethod
        def from_new_request(cls, tokenizer: object, request: EngineCoreRequest) -> "WithoutText":  # noqa: ARG003
            return cast("WithoutText", super().from_new_request(None, request))

    output_processor.LogprobsProcessor = WithoutText


@cache
def record_token_ends() -> None:
    """Patch vLLM to return the position in the text where each token ends, as ``token_ends`` of a completion.

    vLLM computes these positions for its stop strings and drops them. A second decoding would cost as much CPU time.
    """
    from vllm.v1.engine import detokenizer, output_processor

    for decoder in (detokenizer.FastIncrementalDetokenizer, detokenizer.SlowIncrementalDetokenizer):
        decoder.decode_next = _recording(decoder.decode_next)
    new_output = output_processor.RequestState._new_completion_output

    def with_ends(self: Any, *args: Any) -> Any:
        output = new_output(self, *args)
        output.token_ends = getattr(self.detokenizer, "token_ends", [])
        return output

    output_processor.RequestState._new_completion_output = with_ends


def _recording(decode_next: Callable[[Any, int], str]) -> Callable[[Any, int], str]:
    def recorded(self: Any, next_token_id: int) -> str:
        text = decode_next(self, next_token_id)
        self.__dict__.setdefault("token_ends", []).append(len(self.output_text) + len(text))
        return text

    return recorded


def disable_lora_of_experts() -> None:
    """Patch vLLM on the CPU not to compute experts with LoRA kernels, which are written in Triton for GPUs.

    vLLM 0.32 uses them in every engine with LoRA; Caravan's adapters have no weights of experts.
    """
    from vllm.model_executor.layers.fused_moe import layer
    from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig
    from vllm.platforms import current_platform

    def without_lora(*args: Any, **kwargs: Any) -> Any:
        return FusedMoEConfig(*args, **kwargs | {"is_lora_enabled": False})

    if current_platform.is_cpu():
        layer.FusedMoEConfig = without_lora


def accept_fused_projections() -> None:
    """Patch vLLM to load the adapter of a projection that is fused in the checkpoint; it expects adapters of the parts.

    GLM-4 has ``gate_up_proj`` in transformers and in vLLM, and vLLM maps it to ``gate_proj`` and ``up_proj`` as in Llama. Here,
    an adapter target with the name of the packed layer means that layer.
    """
    from vllm.lora.model_manager import LoRAModelManager

    create_modules = LoRAModelManager._create_lora_modules

    def with_fused_targets(self: Any) -> None:
        fused = set(self.lora_config.target_modules or ()) & self.packed_modules_mapping.keys()
        self.packed_modules_mapping = self.packed_modules_mapping | {name: [name] for name in fused}
        create_modules(self)

    LoRAModelManager._create_lora_modules = with_fused_targets
