"""The learner's share of its GPU's memory."""

import torch

CONTEXT_BYTES = 1024**3
"""Memory of CUDA's context and libraries, which torch does not count. An estimate: it has not been measured here."""


def limit_gpu_memory(utilization: float) -> None:
    """Let this process take at most a fraction of its GPU's memory, CUDA's own included; initializes CUDA.

    When torch needs more, it first releases memory that it keeps for reuse, then raises OutOfMemoryError.
    """
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(max(0.0, utilization - CONTEXT_BYTES / total))
