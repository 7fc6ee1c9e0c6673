"""Quantization of the frozen base model, for small GPUs: the linear layers of the decoder in NF4 or FP8.

Embeddings, norms and output head stay as they are, and so does the adapter, in float32. transformers' own quantizers are not
used: TRL would round the adapter of a model that they loaded to bfloat16, and their FP8 layers have no backward pass.
"""

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cluster.errors import ModelError
from learner.training.decoder import linear_names

Quantization = Literal["nf4", "fp8"]

FP8 = torch.float8_e4m3fn


def quantize_base(model: Any, kind: Quantization, *, device: torch.device, dtype: torch.dtype) -> None:
    """Replace the linear layers of a model's decoder by quantized ones on ``device``, which compute in ``dtype``.

    Raises ModelError for a missing package, and for a model without such layers.
    """
    if kind == "nf4" and find_spec("bitsandbytes") is None:
        raise ModelError(
            "learner.quantization=nf4 needs the package bitsandbytes: install the pinned packages (requirements/setup)"
        )
    names = [name for name in linear_names(model) if isinstance(model.get_submodule(name), nn.Linear)]
    if not names:
        raise ModelError(
            f"learner.quantization={kind}: the decoder has no plain linear layers, whose weights are [out, in]; remove it, or "
            "use another model"
        )
    for name in names:
        layer = model.get_submodule(name)
        quantized = nf4_linear(layer, device, dtype) if kind == "nf4" else Float8Linear(layer, device, dtype)
        model.set_submodule(name, quantized)


def nf4_linear(layer: nn.Linear, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return the layer in 4-bit NormalFloat with quantized scales (QLoRA, Dettmers et al. 2023), 4.1 bits per weight."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    options = {"quant_type": "nf4", "compress_statistics": True}
    quantized: nn.Module = Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=dtype,
        device="meta",
        **options,
    )
    quantized.weight = Params4bit(layer.weight.data, requires_grad=False, module=quantized, **options)
    if layer.bias is not None:
        quantized.bias = nn.Parameter(layer.bias.data, requires_grad=False)
    return quantized.to(device)  # quantizes


class Float8Linear(nn.Linear):
    """A frozen linear layer with weights in float8_e4m3fn and a scale per output. It computes in ``dtype``."""

    def __init__(self, layer: nn.Linear, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        weight = layer.weight.data.to(device).float()
        scale = (weight.abs().amax(dim=1, keepdim=True) / torch.finfo(FP8).max).clamp(
            min=torch.finfo(torch.float32).tiny
        )
        self.weight = nn.Parameter((weight / scale).to(FP8), requires_grad=False)
        self.register_buffer("scale", scale, persistent=False)  # [out, 1], float32
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.data.to(device), requires_grad=False)
        self.compute_dtype = dtype  # PEFT reads it, under the name that bitsandbytes uses

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs ``[..., out]`` in the dtype of computation."""
        outputs: Tensor = _Float8Product.apply(inputs.to(self.compute_dtype), self.weight, self.scale)  # type: ignore[no-untyped-call]  # torch ships it untyped
        return outputs if self.bias is None else outputs + self.bias.to(self.compute_dtype)


class _Float8Product(torch.autograd.Function):
    """``inputs @ weight.T``, which keeps only the 8-bit weight for the backward pass."""

    @staticmethod
    def forward(context: Any, inputs: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        context.save_for_backward(weight, scale)
        return inputs @ _dequantized(weight, scale, inputs.dtype).T

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        weight, scale = context.saved_tensors
        return gradient @ _dequantized(weight, scale, gradient.dtype), None, None


def _dequantized(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return (weight.float() * scale).to(dtype)
