"""Extension of vLLM's worker; the worker imports it before it builds the model."""

from rollout.bound_weights import BoundModules
from rollout.patches import accept_fused_projections, disable_lora_of_experts

disable_lora_of_experts()
accept_fused_projections()


class WorkerExtension(BoundModules):
    """``worker_extension_cls`` of every engine that serves adapters."""
