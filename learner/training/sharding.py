"""The frozen weights spread over the ranks, where one GPU cannot hold them: each layer is whole only while it computes.

It is FSDP2 (torch's ``fully_shard``) on the decoder layers, but not on what is trained: the adapter stays whole on every rank, so
that its gradient, its optimizer and its checkpoints are what they are without sharding. Embeddings and head stay whole too.
"""

from typing import Any

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def shard_base(model: Any, *, num_ranks: int, device_type: str) -> None:
    """Keep this rank's part of the decoder layers of a PEFT model, on devices of this type ("cpu", "cuda").

    All ranks must do it with the same model, and from then on run as many forward and backward passes as each other: whoever
    computes a layer gets the others' parts of it.
    """
    mesh = init_device_mesh(device_type, (num_ranks,))
    decoder = model.get_base_model().get_decoder()
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    # The root of the layers, which has them fetched ahead of time; it has no weights to spread itself.
    in_layers = {parameter for layer in decoder.layers for parameter in layer.parameters()}
    fully_shard(decoder, mesh=mesh, ignored_params=trained | (set(decoder.parameters()) - in_layers))
