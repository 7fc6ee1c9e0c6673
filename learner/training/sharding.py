"""Sharding of the frozen weights over the ranks, for models that one GPU cannot hold.

FSDP2 (torch's ``fully_shard``) on the decoder layers, each gathered only while it computes. The adapter is not sharded, so its
gradient, optimizer and checkpoints are the same as without sharding. Embeddings and head are not sharded either.
"""

from typing import Any

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def shard_base(model: Any, *, num_ranks: int, device_type: str) -> None:
    """Keep only this rank's shard of the decoder layers of a PEFT model, on devices of this type ("cpu", "cuda").

    All ranks must call it with the same model and must run equally many forward and backward passes afterwards, because each pass
    gathers the shards of all ranks.
    """
    mesh = init_device_mesh(device_type, (num_ranks,))
    decoder = model.get_base_model().get_decoder()
    trained = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for layer in decoder.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    # The root prefetches the layers; it has no weights of its own to shard.
    in_layers = {parameter for layer in decoder.layers for parameter in layer.parameters()}
    fully_shard(decoder, mesh=mesh, ignored_params=trained | (set(decoder.parameters()) - in_layers))
