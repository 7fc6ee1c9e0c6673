"""What differs between a sampler on the CPU and one on a GPU: environment variables and engine arguments.

Plain data, so that it can be read and tested without vLLM.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollout.settings import RolloutSettings

GIB = 1024**3

CPU_KV_BLOCK_TOKENS = 32
"""Prompts of a group share their KV cache in whole blocks; vLLM's 128 on the CPU is longer than many prompts."""

CPU_BATCHED_TOKENS = 4096
"""Tokens in one pass of an engine on the CPU: a few groups' prompts at a time."""


CPU_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""The model runs in the engine's own process. By default vLLM puts a CPU worker beside it, to set that one's OpenMP threads
(``environment_variables`` does); the two then wait for one another in busy loops, and keep a core each."""


def environment_variables(settings: RolloutSettings, model: str) -> dict[str, str]:
    """Variables that must stand before vLLM (and with it torch) is imported in the sampler's process."""
    variables = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked child of a Ray worker inherits its threads' locks
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",  # of the engine's processes: deprecations inside vLLM and torch
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    }
    if Path(model).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"  # a local model never needs the network; without one, vLLM would wait for it
    if settings.gpus_per_sampler == 0:
        variables["OMP_NUM_THREADS"] = str(max(1, int(settings.cpus_per_sampler / settings.tensor_parallel_size)))
        # Ray decides how many cores; pinning to the first ones would stack all samplers of a machine on them.
        variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return variables


SOCKET_PATH_BYTES = 107  # as far as Linux goes
SOCKET_NAME_BYTES = 36  # vLLM names them by a UUID


def socket_variables(folder: Path) -> dict[str, str]:
    """What lets the engine's processes meet in ``folder``, so that the sockets that they leave there go when it goes.

    Where its path is too long for sockets, they stay for good where vLLM has them, among the temporary files, or in /tmp
    where that path (TMPDIR) is too long as well.
    """
    for place in (folder, Path(tempfile.gettempdir())):
        if len(os.fsencode(place)) + 1 + SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES:
            return {"VLLM_RPC_BASE_PATH": str(place)}
    return {"VLLM_RPC_BASE_PATH": "/tmp"}


def compiler_variables(settings: RolloutSettings) -> dict[str, str]:
    """What lets the engine load the code that torch compiles for it.

    Torch keeps that among the temporary files, which containers and hardened machines mount noexec; then it goes to the
    user's cache. Where nothing can be executed there either, nothing is compiled: vLLM then samples the same, a few small
    functions apart. An engine that is to be compiled as a whole (no ``enforce_eager``) is left to say what it misses.
    """
    # Torch sets the variable to its default itself, in the driver's environment too, which actors inherit.
    if _executes(Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir())):
        return {}
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caravan" / "torchinductor"
        cache.mkdir(parents=True, exist_ok=True)
        if _executes(cache):
            return {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    except (OSError, RuntimeError):  # no home folder, or one that cannot be written
        pass
    return {"TORCHDYNAMO_DISABLE": "1"} if settings.enforce_eager else {}


def _executes(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK) and not os.statvfs(folder).f_flag & os.ST_NOEXEC


MAX_ADAPTERS = 9
"""Adapters that one forward pass may hold: each takes its size of the accelerator's memory, used or not. Completions
under still older policies are not lost: vLLM lets them wait for a place."""


def engine_arguments(
    settings: RolloutSettings, model: str, lora_rank: int, lora_targets: Sequence[str], max_staleness: int
) -> dict[str, Any]:
    """Keyword arguments of vLLM's ``AsyncEngineArgs``; without ``lora_targets``, all that can carry an adapter may."""
    arguments: dict[str, Any] = {
        "model": model,
        "max_model_len": settings.max_prompt_tokens + settings.max_completion_tokens,
        "max_num_seqs": settings.max_concurrent_requests,
        "enforce_eager": settings.enforce_eager,
        "enable_prefix_caching": True,  # the prompt of a group is prefilled once
        # Log-probabilities of the distribution that was sampled from, so after temperature; vLLM's default is before.
        "logprobs_mode": "processed_logprobs",
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
        "enable_log_requests": False,
        "dtype": settings.served_dtype,
    }
    if settings.policy_swap != "merged":
        arguments["worker_extension_cls"] = "rollout.worker_extension.WorkerExtension"
        arguments["enable_lora"] = True
        arguments["max_lora_rank"] = lora_rank
        if lora_targets:
            # Whatever has room for an adapter costs memory and time, used or not; and experts have none on the CPU.
            arguments["lora_target_modules"] = sorted({target.rpartition(".")[2] for target in lora_targets})
        # Groups are under way with max_staleness + 1 policies at most, and the next one is proved beside them.
        window = max_staleness + 2 if settings.policy_swap == "versions" else 1
        # One place more than is used: vLLM's CPU kernels compute requests without an adapter with what is in the last one.
        arguments["max_loras"] = min(window, MAX_ADAPTERS) + 1
        arguments["max_cpu_loras"] = window + 1
    num_ranks = settings.tensor_parallel_size
    if num_ranks > 1:
        arguments["tensor_parallel_size"] = num_ranks
        arguments["distributed_executor_backend"] = (
            "mp"  # on this machine: Ray has given the sampler all of its GPUs here
        )
    if settings.gpus_per_sampler == 0:
        if num_ranks == 1:
            arguments["distributed_executor_backend"] = CPU_EXECUTOR
        arguments["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * GIB / num_ranks)  # of each rank
        arguments["block_size"] = CPU_KV_BLOCK_TOKENS
        # A prompt is prefilled whole or not yet: for one that is cut, vLLM 0.32 turns the request's generator back
        # (_bookkeeping_sync in v1/worker/gpu_model_runner.py), which generators on the CPU cannot do, and the engine dies.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(CPU_BATCHED_TOKENS, arguments["max_model_len"])
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
    return arguments
