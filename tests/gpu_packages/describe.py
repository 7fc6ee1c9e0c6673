"""Describe vLLM's configuration of Caravan's engines on GPUs, in JSON; runs with the GPU packages and without a GPU.

    LD_LIBRARY_PATH=<folder of stub_driver.compile_driver> <GPU packages>/bin/python -m tests.gpu_packages.describe MODEL

The first line names the modules of Caravan that were imported; each other line describes one engine.
"""

import importlib
import json
import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

from tests.gpu_packages.stub_driver import GPUS, activate_triton, install_nvml

CONFIGS = Path(__file__).parents[2] / "configs"
PACKAGES = ("cluster", "grader", "learner", "rollout")


def imported_modules() -> list[str]:
    """Import every module of Caravan, and what only GPUs use of vLLM and TRL; return the names of Caravan's."""
    for name in ("vllm.v1.worker.gpu_worker", "vllm.v1.worker.gpu.model_runner", "trl.kernels.chunked_logprob"):
        importlib.import_module(name)
    names = []
    for package in PACKAGES:
        for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(found.name)
            names.append(found.name)
    return names


def describe(model: str, **settings: Any) -> dict[str, Any]:
    """Return what vLLM decides for an engine of ``configs/cluster.yaml`` with some other settings."""
    from vllm.config import set_current_vllm_config
    from vllm.v1.attention.backends.fa_utils import get_flash_attn_version
    from vllm.v1.attention.selector import get_attn_backend

    from cluster.config.load import load_config
    from rollout.engine import engine_config
    from rollout.environment import engine_arguments, environment_variables

    overrides = [f"rollout.{name}={value}" for name, value in settings.items()]
    config = load_config(CONFIGS / "cluster.yaml", overrides, environment={})
    lora = config.learner.lora
    os.environ.update(environment_variables(config.rollout, model))
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    asked = engine_arguments(config.rollout, model, lora.r, targets, config.loop.max_staleness)
    engine = engine_config(config.rollout, model, lora.r, targets, config.loop.max_staleness)
    with set_current_vllm_config(engine):
        head_size = engine.model_config.get_head_size()
        backend = get_attn_backend(head_size, engine.model_config.dtype, engine.cache_config.cache_dtype)
        flash_version = get_flash_attn_version(head_size=head_size)
    adapters = engine.lora_config
    return {
        "asked": {
            name: asked.get(name) for name in ("max_num_batched_tokens", "max_loras", "max_cpu_loras", "max_lora_rank")
        },
        "uses_v2": engine.use_v2_model_runner,
        "is_async": engine.scheduler_config.async_scheduling,
        "attention": backend.get_name(),
        "flash_version": flash_version,
        "dtype": str(engine.model_config.dtype),
        "max_num_batched_tokens": engine.scheduler_config.max_num_batched_tokens,
        "graphs": str(engine.compilation_config.cudagraph_mode),
        "ranks": engine.parallel_config.tensor_parallel_size,
        "logprobs": engine.model_config.logprobs_mode,
        "max_loras": adapters and adapters.max_loras,
        "max_cpu_loras": adapters and adapters.max_cpu_loras,
        "max_lora_rank": adapters and adapters.max_lora_rank,
        "fuses_allreduce": engine.compilation_config.pass_config.fuse_allreduce_rms,
    }


def in_child(work: Any) -> None:
    """Run a function in a forked process: vLLM takes the GPU for the same during the life of a process."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            work()
            sys.stdout.flush()
        except BaseException:  # noqa: BLE001 - the child must not return into the parent's code
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit("a configuration could not be built: see the traceback above")


def main(model: str) -> None:
    import triton.backends
    import vllm.third_party.pynvml as pynvml

    activate_triton(triton.backends)
    install_nvml(pynvml, GPUS["A100"])
    print(json.dumps(imported_modules()))
    for name in GPUS:
        for ranks in (1, 2):
            for mode in ("versions", "merged"):

                def work(name: str = name, ranks: int = ranks, mode: str = mode) -> None:
                    install_nvml(pynvml, GPUS[name])
                    from vllm.platforms import current_platform

                    type(current_platform).get_device_capability.cache_clear()
                    found = describe(model, tensor_parallel_size=ranks, weight_sync_mode=mode)
                    print(json.dumps({"gpu": name, "mode": mode, "ranks_asked": ranks, **found}))

                in_child(work)


if __name__ == "__main__":
    main(sys.argv[1])
