"""Facts about the GPUs of each machine, from NVML, the management library of NVIDIA's driver.

NVML answers without CUDA: a query takes no GPU memory and does not depend on CUDA_VISIBLE_DEVICES. Tests replace the
library by a stub; the calls have not run on a machine with a GPU.
"""

# ruff: noqa: N802 - names of the library

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from cluster.placement.nodes import ask_nodes

MEMORY_VERSION = 0x02000028
"""nvmlMemory_v2: ``total`` is all memory, ``reserved`` is the part that NVIDIA's driver uses itself."""


class MemoryInfo(Protocol):
    """Memory of one GPU, in bytes."""

    total: int
    reserved: int


class Nvml(Protocol):
    """The functions of ``pynvml`` (nvidia-ml-py) that are called here. They raise ``NVMLError``."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None:
        """Connect to the driver."""

    def nvmlShutdown(self) -> None:
        """End the connection."""

    def nvmlSystemGetDriverVersion(self) -> str:
        """Return the version of the driver."""

    def nvmlDeviceGetCount(self) -> int:
        """Return the number of GPUs."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        """Return a handle of a GPU."""

    def nvmlDeviceGetName(self, handle: object) -> str:
        """Return the product name."""

    def nvmlDeviceGetMemoryInfo(self, handle: object, version: int) -> MemoryInfo:
        """Return the memory."""

    def nvmlDeviceGetCudaComputeCapability(self, handle: object) -> tuple[int, int]:
        """Return the compute capability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """One GPU."""

    name: str  # of the product: "NVIDIA A100-SXM4-80GB"
    total_bytes: int  # memory that programs can use
    driver: str  # version: "580.65.06"
    compute_capability: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineGpus:
    """All GPUs of one machine, including those that Ray does not use. If they are unknown, ``error`` is the reason."""

    gpus: tuple[GpuFacts, ...] = ()
    error: str | None = None


def gpus_of_this_machine() -> MachineGpus:
    """Ask NVML on this machine."""
    try:
        nvml = cast(Nvml, importlib.import_module("pynvml"))
    except ModuleNotFoundError:
        return MachineGpus(error="nvidia-ml-py is not installed: CARAVAN_DEVICE=gpu requirements/setup installs it")
    return read_gpus(nvml)


def read_gpus(nvml: Nvml) -> MachineGpus:
    """Read the facts of all GPUs that NVML knows; an error of NVML is the result's ``error``."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return MachineGpus(error=f"NVIDIA's driver does not answer: {error}")
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return MachineGpus(gpus=tuple(_facts(nvml, handle, driver) for handle in handles))
    except nvml.NVMLError as error:
        return MachineGpus(error=f"NVIDIA's driver does not describe the GPUs: {error}")
    finally:
        nvml.nvmlShutdown()


def gpus_of_nodes(nodes: Sequence[Mapping[str, Any]]) -> dict[str, MachineGpus]:
    """Ask NVML on each living node of ``ray.nodes()`` that has GPUs; returns the answers by node id.

    Raises ResourcesError if a node does not answer.
    """
    with_gpus = [node for node in nodes if node["Alive"] and node["Resources"].get("GPU")]
    answers = ask_nodes(with_gpus, gpus_of_this_machine)
    return {node["NodeID"]: answer for node, answer in zip(with_gpus, answers, strict=True)}


def _facts(nvml: Nvml, handle: object, driver: str) -> GpuFacts:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle, MEMORY_VERSION)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return GpuFacts(
        name=nvml.nvmlDeviceGetName(handle),
        total_bytes=memory.total - memory.reserved,
        driver=driver,
        compute_capability=(major, minor),
    )
