"""What vLLM's worker is extended by; imported there before the model is built."""

from rollout.bound import BoundModules
from rollout.engine import leave_experts_without_lora

leave_experts_without_lora()


class WorkerExtension(BoundModules):
    """``worker_extension_cls`` of every engine that serves adapters."""
