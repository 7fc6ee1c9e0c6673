"""GPU acceptance suite: driver, compiler, shared memory, and kernels of the installed packages."""

import os
import shutil
import sysconfig
from pathlib import Path

import pytest

from cluster.placement.gpu_facts import gpus_of_this_machine
from learner.training.gpu import MIN_CAPABILITY, MIN_DRIVER
from tests.gpu.conftest import Report

GIB = 1024**3
MIN_SHARED_GIB, MIN_SHARED_GIB_CPU = 8, 1


@pytest.mark.gpu("NVIDIA driver", f">= {MIN_DRIVER}")
@pytest.mark.needs_gpus(1)
def test_driver_runs_cuda_13(report: Report) -> None:
    driver = gpus_of_this_machine().gpus[0].driver
    report(driver, passed=int(driver.partition(".")[0]) >= MIN_DRIVER)


@pytest.mark.gpu("compute capability", f">= {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}")
@pytest.mark.needs_gpus(1)
def test_every_gpu_computes_in_bfloat16(report: Report) -> None:
    found = [gpu.compute_capability for gpu in gpus_of_this_machine().gpus]
    report(
        ", ".join(".".join(map(str, each)) for each in found),
        passed=min(found) >= MIN_CAPABILITY,
    )


@pytest.mark.gpu("Python.h and a C compiler", "both are installed")
def test_triton_can_compile_its_launchers(report: Report) -> None:
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    report(
        f"{header if header.exists() else 'no Python.h'}, {compiler or 'no compiler'}",
        passed=header.exists() and compiler is not None,
    )


@pytest.mark.gpu("Triton kernel", "compiles, error = 0")
@pytest.mark.needs_gpus(1)
def test_a_triton_kernel_compiles_and_runs(report: Report) -> None:
    import torch

    from tests.gpu.triton_kernel import doubled

    numbers = torch.arange(1000, device="cuda", dtype=torch.float32)
    error = (doubled(numbers) - 2 * numbers).abs().max().item()
    report(f"error {error:g}", passed=error == 0)


@pytest.mark.gpu("/dev/shm", f">= {MIN_SHARED_GIB} GiB; CPU: {MIN_SHARED_GIB_CPU} GiB")
def test_shared_memory_is_large_enough(report: Report, device: str) -> None:
    size = shutil.disk_usage("/dev/shm").total / GIB
    needed = MIN_SHARED_GIB if device == "cuda" else MIN_SHARED_GIB_CPU
    report(f"{size:.1f} GiB", passed=size >= needed)


@pytest.mark.gpu("vLLM's compiled silu_and_mul", "error < 1e-5")
def test_a_compiled_operation_of_vllm_agrees_with_torch(report: Report, device: str) -> None:
    import torch
    import vllm._custom_ops  # noqa: F401 - loads the compiled operations

    gates = torch.randn(64, 256, device=device, generator=torch.Generator(device).manual_seed(0))
    found = torch.empty(64, 128, device=device)
    torch.ops._C.silu_and_mul(found, gates)
    expected = torch.nn.functional.silu(gates[:, :128]) * gates[:, 128:]
    error = (found - expected).abs().max().item()
    report(f"{error:.1e}", passed=error < 1e-5)
