"""What vLLM's worker is extended by; imported there before the model is built."""

from rollout.bound_weights import BoundModules
from rollout.engine import leave_experts_without_lora, take_fused_projections_whole

leave_experts_without_lora()
take_fused_projections_whole()


class WorkerExtension(BoundModules):
    """``worker_extension_cls`` of every engine that serves adapters."""
