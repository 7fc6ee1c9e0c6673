"""Requirements of the packages for a GPU, and the reason why a process cannot compute on its GPU. Does not import torch."""

import re
from importlib.metadata import version
from typing import Protocol

MIN_DRIVER = 580
"""Lowest version of the NVIDIA driver that runs CUDA 13. ``requirements/setup`` has the same number."""

MIN_CAPABILITY = (8, 0)
"""Lowest compute capability with bfloat16. ``requirements/setup`` has the same number."""

WITH_BFLOAT16 = "A100, L4, RTX 30 and newer"
INSTALL = "CARAVAN_DEVICE=gpu requirements/setup"


class Cuda(Protocol):
    """The part of torch that answers for the GPU of this process."""

    @property
    def version(self) -> str | None:
        """CUDA version that torch is built for; None for a CPU build."""

    def init(self) -> None:
        """Initialize CUDA; raises RuntimeError with torch's reason."""

    def name(self) -> str:
        """Name of the GPU."""

    def capability(self) -> tuple[int, int]:
        """Compute capability of the GPU."""


def unusable_gpu(cuda: Cuda) -> str | None:
    """Return the reason why this process cannot compute on a GPU, with advice, in one line; None if it can.

    Initializes CUDA in this process. Has not run on a machine with a GPU.
    """
    if cuda.version is None:
        return f"torch {version('torch')} is a CPU build: install the packages for a GPU with `{INSTALL}`"
    try:
        cuda.init()
    except RuntimeError as error:
        return _init_failure(cuda.version, str(error))
    capability = cuda.capability()
    if capability < MIN_CAPABILITY:
        return (
            f"the {cuda.name()} has compute capability {capability[0]}.{capability[1]}, and bfloat16 needs "
            f"{MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} or higher: use a GPU that has it ({WITH_BFLOAT16})"
        )
    return None


def _init_failure(version: str, reason: str) -> str:
    """Explain torch's reason why CUDA does not initialize."""
    found = re.search(r"driver on your system is too old \(found version (\d+)\)", reason)
    if found is None:
        return f"torch finds no usable GPU here: {reason.strip().splitlines()[0]}"
    cuda_of_driver = f"{int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}"
    return (
        f"the NVIDIA driver is too old: it runs CUDA {cuda_of_driver}, and torch is built for CUDA {version}: update the "
        f"driver to {MIN_DRIVER} or newer"
    )
