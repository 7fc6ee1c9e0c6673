"""Environment variables and engine arguments of a sampler, on the CPU and on a GPU.

Plain data, readable and testable without vLLM.
"""

import os
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cluster.actors.gpus import VISIBLE_GPUS
from cluster.errors import ModelError
from rollout.settings import RolloutSettings
from rollout.weight_sync_modes import weight_sync_mode

GIB = 1024**3

CPU_KV_BLOCK_TOKENS = 32
"""Completions of a group share the prompt's KV cache in whole blocks; vLLM's CPU default of 128 is longer than many prompts."""

CPU_BATCHED_TOKENS = 4096
"""Tokens in one forward pass of an engine on the CPU: the prompts of a few groups."""

FREE_AT_START = 0.9
"""Fraction of an engine's GPU share that must be free when the engine starts. Used only if the size of the KV cache is set.
CUDA itself occupies some memory: without a margin, no engine would start next to a learner that uses its whole share."""

CPU_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""Runs the model in the engine's own process. By default vLLM starts a separate CPU worker, to set its OpenMP threads (here
``environment_variables`` does that); the two processes then wait for each other in busy loops that occupy a core each."""


def environment_variables(settings: RolloutSettings, model: str) -> dict[str, str]:
    """Variables that must be set before the sampler's process imports vLLM, and with it torch."""
    variables = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked child of a Ray worker inherits the locks of its threads
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",  # of the engine's processes: deprecations inside vLLM and torch
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
    }
    if Path(model).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"  # a local model needs no network; vLLM would wait for one
    if settings.gpus_per_sampler == 0:
        variables[VISIBLE_GPUS] = ""
        # Otherwise vLLM's CUDA build uses a GPU that NVIDIA's driver reports, even if it is not visible.
        variables["VLLM_TARGET_DEVICE"] = "cpu"
        variables["OMP_NUM_THREADS"] = str(max(1, int(settings.cpus_per_sampler / settings.tensor_parallel_size)))
        # Ray assigns cores; pinning would put all samplers of a machine on the first ones.
        variables["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    else:
        variables["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # requirements/gpu.txt excludes FlashInfer and gives the reason
    return variables


def check_build(settings: RolloutSettings) -> None:
    """Raise ModelError if the vLLM of this machine is not built for the device of the sampler."""
    try:
        is_cuda_build = "cpu" not in version("vllm")
    except PackageNotFoundError:  # the CPU build is the package vllm-cpu
        is_cuda_build = False
    if is_cuda_build and settings.gpus_per_sampler == 0:
        raise ModelError(
            "rollout.gpus_per_sampler=0 samples on the CPU, and the vLLM of this machine is a CUDA build, without kernels for "
            "it: give samplers a GPU, or install the CPU packages here (CARAVAN_DEVICE=cpu requirements/setup)"
        )
    if not is_cuda_build and settings.gpus_per_sampler > 0:
        raise ModelError(
            f"rollout.gpus_per_sampler={settings.gpus_per_sampler:g} samples on a GPU, and the vLLM of this machine is a CPU "
            "build: install the GPU packages here (CARAVAN_DEVICE=gpu requirements/setup), or set rollout.gpus_per_sampler=0"
        )


def folder_variables(settings: RolloutSettings, sockets: Path) -> dict[str, str]:
    """Variables for the files of the engine's processes: sockets, and compiled code, which the engines of a machine share."""
    return socket_variables(sockets) | compiler_variables(settings) | cache_variables(settings)


SOCKET_PATH_BYTES = 107  # Linux's limit
SOCKET_NAME_BYTES = 36  # vLLM names them by a UUID


def socket_variables(folder: Path) -> dict[str, str]:
    """Variables that put the sockets of the engine's processes into ``folder``, so that they are deleted with it.

    If its path is too long for a socket, they go to the folder for temporary files, or to /tmp if that path (TMPDIR) is too long
    as well; there, vLLM leaves them behind.
    """
    for place in (folder, Path(tempfile.gettempdir())):
        if len(os.fsencode(place)) + 1 + SOCKET_NAME_BYTES <= SOCKET_PATH_BYTES:
            return {"VLLM_RPC_BASE_PATH": str(place)}
    return {"VLLM_RPC_BASE_PATH": "/tmp"}


def compiler_variables(settings: RolloutSettings) -> dict[str, str]:
    """Variables that let the engine load the code that torch compiles for it.

    Torch stores it in the folder for temporary files, which containers and hardened machines mount noexec; the user's cache is
    used then. If that is noexec too, compilation is turned off, with the same samples. An engine that is compiled as a whole (no
    ``enforce_eager``) keeps it on, and reports the error itself.
    """
    # Torch sets the variable to its default, also in the driver's environment, which actors inherit.
    if _allows_execution(Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR") or tempfile.gettempdir())):
        return {}
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caravan" / "torchinductor"
        cache.mkdir(parents=True, exist_ok=True)
        if _allows_execution(cache):
            return {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    except (OSError, RuntimeError):  # no home folder, or one that cannot be written
        pass
    return {"TORCHDYNAMO_DISABLE": "1"} if settings.enforce_eager else {}


def cache_variables(settings: RolloutSettings) -> dict[str, str]:
    """Variables that select vLLM's compile cache, which the engines of a machine share.

    Without a usable home folder they share it as well.

    vLLM keeps it in VLLM_CACHE_ROOT, by default ``~/.cache/vllm``. If that cannot be written or is noexec, it goes to the folder
    for temporary files.
    """
    if settings.enforce_eager:
        return {}
    try:
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm"
        if _allows_execution(Path(os.environ.get("VLLM_CACHE_ROOT") or default).expanduser()):
            return {}
    except (OSError, RuntimeError):  # no home folder
        pass
    return {"VLLM_CACHE_ROOT": str(Path(tempfile.gettempdir()) / f"caravan-vllm-{os.getuid()}")}


def _allows_execution(folder: Path) -> bool:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK) and not os.statvfs(folder).f_flag & os.ST_NOEXEC


def engine_arguments(
    settings: RolloutSettings, model: str, lora_rank: int, lora_targets: Sequence[str], max_staleness: int
) -> dict[str, Any]:
    """Keyword arguments of vLLM's ``AsyncEngineArgs``; empty ``lora_targets`` enable LoRA in all layers that support it."""
    arguments: dict[str, Any] = {
        "model": model,
        "max_model_len": settings.max_prompt_tokens + settings.max_completion_tokens,
        "max_num_seqs": settings.max_concurrent_requests,
        "enforce_eager": settings.enforce_eager,
        "enable_prefix_caching": True,  # the prompt of a group is prefilled once
        # Log-probabilities of the sampled distribution, after temperature; vLLM's default is before temperature.
        "logprobs_mode": "processed_logprobs",
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
        "enable_log_requests": False,
        "dtype": settings.served_dtype,
    }
    on_cpu = settings.gpus_per_sampler == 0
    arguments |= weight_sync_mode(settings).engine_arguments(
        lora_rank=lora_rank, lora_targets=lora_targets, max_staleness=max_staleness, on_cpu=on_cpu
    )
    if settings.max_num_batched_tokens is not None:
        arguments["max_num_batched_tokens"] = settings.max_num_batched_tokens
    num_ranks = settings.tensor_parallel_size
    if num_ranks > 1:
        arguments["tensor_parallel_size"] = num_ranks
        arguments["distributed_executor_backend"] = "mp"  # all GPUs of a sampler are on its machine
    if on_cpu:
        if num_ranks == 1:
            arguments["distributed_executor_backend"] = CPU_EXECUTOR
        arguments["kv_cache_memory_bytes"] = int(settings.kv_cache_gib * GIB / num_ranks)  # per rank
        arguments["block_size"] = CPU_KV_BLOCK_TOKENS
        # Prompts are prefilled whole: for a chunked one, vLLM 0.32 rewinds the request's random generator (_bookkeeping_sync in
        # v1/worker/gpu_model_runner.py), which CPU generators do not support, and the engine dies.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(
            settings.max_num_batched_tokens or CPU_BATCHED_TOKENS, arguments["max_model_len"]
        )
        if settings.engine.get("enable_chunked_prefill"):
            raise ModelError(
                "rollout.engine.enable_chunked_prefill: chunked prefill of a request with a seed crashes an engine on the "
                "CPU: remove the option"
            )
    else:
        arguments["gpu_memory_utilization"] = settings.gpu_memory_utilization
        if settings.kv_cache_memory_bytes is not None:
            arguments["kv_cache_memory_bytes"] = settings.kv_cache_memory_bytes
            # The cache has a set size: vLLM only checks that this fraction is free at its start, with a CUDA context.
            arguments["gpu_memory_utilization"] = round(FREE_AT_START * settings.gpu_memory_utilization, 4)
    return arguments | settings.engine
