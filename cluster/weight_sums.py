"""Exact checksums of a model's weights, by layer, that learner and samplers compute alike. Standard library only.

A checksum is the sum of the bits of all weights as float32 numbers. It does not depend on how the weights are split, joined or
transposed, which differs between transformers and vLLM, and it finds a single changed bit, a missing weight, and one that is
loaded twice.
"""

from collections.abc import Iterable
from typing import Any

OUTSIDE_LAYERS = "embeddings, head and final norm"


def weight_sums(weights: Iterable[tuple[str, Any]]) -> dict[str, int]:
    """Return the checksum of each layer, from names and tensors (of torch) in the format of a checkpoint."""
    sums: dict[str, int] = {}
    for name, tensor in weights:
        add_weight(sums, name, tensor)
    return sums


def add_weight(sums: dict[str, int], name: str, tensor: Any) -> None:
    """Add a weight to the checksum of its layer."""
    layer = layer_of(name)
    sums[layer] = sums.get(layer, 0) + bit_sum(tensor)


def layer_of(name: str) -> str:
    """Return the layer of a weight: its first number, which is the same in transformers and in vLLM."""
    number = next((part for part in name.split(".") if part.isdigit()), None)
    return OUTSIDE_LAYERS if number is None else f"layer {number}"


def bit_sum(tensor: Any) -> int:
    """Return the sum of the bits of a tensor's numbers, each as float32 and with 0 for -0."""
    numbers = tensor.detach().float() + 0.0
    return int(numbers.view(numbers[:0].int().dtype).sum())  # torch sums integers in 64 bits
