"""A stand-in for the NVIDIA driver, for processes with the GPU packages on a machine without a GPU.

Compiled kernels load a library with the driver's functions, each of which returns CUDA_ERROR_NO_DEVICE. vLLM gets its facts about
the GPU from NVML, whose functions are replaced, and asks Triton for an active driver.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

GIB = 1024**3
NUM_GPUS = 2


@dataclass(frozen=True)
class Gpu:
    """What NVML says about one GPU."""

    name: str
    capability: tuple[int, int]
    gib: int


GPUS = {
    "A100": Gpu("NVIDIA A100-SXM4-80GB", (8, 0), 80),
    "4090": Gpu("NVIDIA GeForce RTX 4090", (8, 9), 24),
    "L40S": Gpu("NVIDIA L40S", (8, 9), 45),
    "H100": Gpu("NVIDIA H100 80GB HBM3", (9, 0), 80),
    "H200": Gpu("NVIDIA H200", (9, 0), 140),
    "B200": Gpu("NVIDIA B200", (10, 0), 179),
}


def driver_functions(library: Path) -> Iterator[str]:
    """Yield the functions of the driver (``cuMemCreate``) that a compiled library expects to be there."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    yield from re.findall(r"\bU (cu[A-Z]\w*)", listed)


def compile_driver(packages: Path, folder: Path) -> None:
    """Compile ``libcuda.so.1`` into a folder, with every function that vLLM in the folder ``packages`` needs."""
    names = sorted({name for library in (packages / "vllm").rglob("*.so") for name in driver_functions(library)})
    assert names, f"no library in {packages / 'vllm'} calls the driver"
    (folder / "driver.c").write_text("".join(f"int {name}(void) {{ return 100; }}\n" for name in names))
    command = ["gcc", "-w", "-shared", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so.1", "driver.c"]
    subprocess.run(command, cwd=folder, check=True, timeout=60)


def install_nvml(pynvml: Any, gpu: Gpu) -> None:
    """Let the functions of ``pynvml`` that vLLM calls tell of a machine with these GPUs."""
    memory = SimpleNamespace(total=gpu.gib * GIB, free=gpu.gib * GIB, used=0)
    pynvml.nvmlInit = pynvml.nvmlShutdown = lambda: None
    pynvml.nvmlDeviceGetCount = lambda: NUM_GPUS
    pynvml.nvmlDeviceGetHandleByIndex = lambda index: index
    pynvml.nvmlDeviceGetCudaComputeCapability = lambda handle: gpu.capability
    pynvml.nvmlDeviceGetName = lambda handle: gpu.name
    pynvml.nvmlDeviceGetMemoryInfo = lambda handle: memory


def activate_triton(backends: Any) -> None:
    """Let ``triton.backends`` find the driver active, as with a GPU; vLLM takes Triton for unusable otherwise."""
    backends.backends["nvidia"].driver.is_active = staticmethod(lambda: True)
