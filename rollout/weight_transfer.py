"""Whole weights of a policy into a running engine: vLLM's weight-transfer API, with a backend for shared memory.

vLLM's own backends need GPUs (NCCL, CUDA IPC). This one reads the files that one sampler of a machine wrote into its shared
memory, so that the weights cross the network once per machine. vLLM loads them in place, layer by layer: each layer is loaded
once all its weights have arrived, and then converted for the kernels of the device.

The backend also computes the checksum of what each layer loaded. vLLM replays the weights of a layer from a buffer, and a weight
that is not in the buffer leaves the layer's memory uninitialized (PrimeIntellect-ai/prime-rl#2714); a layer without weights keeps
its old ones. Both miss in the checksum.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from vllm.distributed.weight_transfer import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.model_loader.reload import layerwise

from cluster.weight_sums import add_weight

BACKEND = "shared_memory"


@dataclass
class InitInfo(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM is not typed
    """Nothing: there is no connection to open."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """The folder with the policy's weights, as *.safetensors in the format of a checkpoint."""

    folder: str


class SharedMemoryEngine(WeightTransferEngine[InitInfo, UpdateInfo]):  # type: ignore[misc]
    """Loads weights from a folder on this machine into the model of one worker."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sums: dict[str, int] = {}  # checksum of what each layer loaded in the last update

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Do nothing: there is no connection to open."""

    def start_weight_update(self) -> None:
        """Prepare every layer for new weights."""
        self.sums = {}
        layerwise.initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Load the weights of the folder."""
        with _recording(self.model, self.sums):
            self.model.load_weights(_weights(Path(update_info.folder), self.device))

    def finish_weight_update(self) -> None:
        """Load layers of which vLLM expects more weights than a checkpoint has, for example because of padding."""
        with _recording(self.model, self.sums):
            layerwise.finalize_layerwise_reload(self.model, self.model_config)
        self._convert_tied_weights()

    def shutdown(self) -> None:
        """Do nothing: there is no connection to close."""

    def _convert_tied_weights(self) -> None:
        """Convert the weights of an output head that is tied to the embedding: a checkpoint has none, so vLLM 0.32 skips it.

        On the CPU, the head computes with a packed copy of the weights, which would remain the old one.
        """
        owners: dict[int, Any] = {}  # by parameter: the first layer that has it
        for layer in self.model.modules():
            for parameter in layer.parameters(recurse=False):
                is_tied = owners.setdefault(id(parameter), layer) is not layer
                if (
                    is_tied
                    and parameter.numel()
                    and isinstance(getattr(layer, "quant_method", None), QuantizeMethodBase)
                ):
                    vars(layer).pop("_already_called_process_weights_after_loading", None)
                    layer.quant_method.process_weights_after_loading(layer)


def register() -> None:
    """Make the backend known to vLLM, in the process of a worker."""
    WeightTransferEngineFactory.register_engine(BACKEND, SharedMemoryEngine)


@contextmanager
def _recording(model: Any, sums: dict[str, int]) -> Iterator[None]:
    """Add the checksums of the weights that vLLM's layers load inside the block to ``sums``."""
    process = layerwise._layerwise_process
    names = {module: name for name, module in model.named_modules()}

    def process_and_record(layer: Any, info: Any) -> None:
        for parameter, arguments in info.loaded_weights:
            for key, value in arguments.arguments.items():
                if key != "param" and isinstance(value, Tensor):
                    add_weight(sums, f"{names[layer]}.{parameter}", value)
        process(layer, info)

    layerwise._layerwise_process = process_and_record
    try:
        yield
    finally:
        layerwise._layerwise_process = process


def _weights(folder: Path, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a folder on the device, where their checksums are computed."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt", device=str(device)) as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping
                yield name, weights.get_tensor(name)
