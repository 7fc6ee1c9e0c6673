"""Extensions of vLLM's worker, imported before the worker builds the model."""

from typing import Any

from rollout.bound_weights import BoundModules
from rollout.patches import accept_fused_projections, disable_lora_of_experts
from rollout.weight_transfer import register

disable_lora_of_experts()
accept_fused_projections()
register()


class WorkerExtension(BoundModules):
    """``worker_extension_cls`` of every engine that serves adapters."""


class FullWorkerExtension:
    """``worker_extension_cls`` of every engine that serves whole weights."""

    weight_transfer_engine: Any

    def loaded_weight_sums(self) -> dict[str, int]:
        """Return the checksums of the weights that each layer loaded in the last update."""
        sums: dict[str, int] = self.weight_transfer_engine.sums
        return sums
