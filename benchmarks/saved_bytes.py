"""Bytes per token that a layer keeps for the backward pass, with and without PEFT's casts of its inputs.

``python -m benchmarks.saved_bytes``. Measured on the CPU with layers of the given shape in bfloat16, through autograd's hooks
for saved tensors. Dropout keeps its mask as on a GPU, one byte per number.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from benchmarks.harness import measure_and_print

SHAPES = {  # Qwen2.5: hidden size, intermediate size, heads, heads of keys and values
    "0.5B": (896, 4864, 14, 2),
    "1.5B": (1536, 8960, 12, 2),
    "7B": (3584, 18944, 28, 4),
}
NUM_TOKENS = 64
RANK = 32


def saved_bytes(shape: tuple[int, int, int, int], *, dropout: float, casts: bool) -> float:
    """Bytes per token that one layer keeps: the difference of a model of two layers and one of one layer."""
    return (_saved(shape, 2, dropout, casts) - _saved(shape, 1, dropout, casts)) / NUM_TOKENS


def _saved(shape: tuple[int, int, int, int], num_layers: int, dropout: float, casts: bool) -> int:
    from peft import get_peft_model
    from peft.helpers import disable_input_dtype_casting
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from learner.settings import LoraSettings
    from learner.training.build import lora_config

    hidden, intermediate, heads, kv_heads = shape
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=num_layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
    )
    base = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model = get_peft_model(base, lora_config(LoraSettings(r=RANK, alpha=RANK, dropout=dropout), base, "Qwen2")).train()
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(0, 64, (1, NUM_TOKENS))
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
        disable_input_dtype_casting(model, active=not casts),
    ):
        base.model(input_ids=ids, use_cache=False)
    return sum(each.untyped_storage().nbytes() for each in kept.values())


def _dropout_of_gpus(module: torch.nn.Dropout, values: Tensor) -> Tensor:
    """Dropout with a mask of one byte per number; the CPU's has the numbers' dtype."""
    return torch.native_dropout(values, module.p, module.training)[0]


def run(names: Sequence[str]) -> dict[str, Any]:
    """Measure and return the result, in bytes."""
    torch.nn.Dropout.forward = _dropout_of_gpus  # type: ignore[assignment]
    return {
        f"{name}, dropout {dropout:g}": {
            "casts" if casts else "no casts": saved_bytes(SHAPES[name], dropout=dropout, casts=casts)
            for casts in (True, False)
        }
        for name in names
        for dropout in (0.0, 0.05)
    }


def tables(found: dict[str, Any]) -> list[Table]:
    """Return the table of a result."""
    table = Table("", "PEFT's casts", "without", title="kB per token and layer (bfloat16)")
    for name, row in found.items():
        table.add_row(name, f"{row['casts'] / 1e3:.1f}", f"{row['no casts'] / 1e3:.1f}")
    return [table]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("shapes", nargs="*", default=["1.5B"], help=f"of Qwen2.5: {', '.join(SHAPES)} (default: 1.5B)")
    options = parser.parse_args()
    measure_and_print(lambda _log: run(options.shapes), tables)


if __name__ == "__main__":
    main()
