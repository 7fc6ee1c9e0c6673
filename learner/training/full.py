"""Training of all weights (``learner.method=full``): the policy, the frozen reference of the KL divergence, and their files.

The policy's weights are float32, also where it computes in bfloat16: an optimizer step is smaller than the distance of two
bfloat16 numbers, and would be lost. Autocast rounds the weights for each pass, as samplers round them for their engines.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from cluster.errors import LearnerError
from cluster.weight_sums import add_weight
from learner.training.model import remove_local_paths

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"


class FullModel(nn.Module):
    """A causal language model whose weights are all trained, with the methods of a PEFT model that the trainer calls.

    ``load_reference`` loads the model before training. It is called when the reference is needed for the first time, and the
    reference is kept: without a KL coefficient there is none. It is no submodule, so it is neither trained nor saved.
    """

    def __init__(self, model: Any, load_reference: Callable[[], Any]) -> None:
        super().__init__()
        self.model = model
        self._load_reference = load_reference
        self._references: list[Any] = []  # at most one; a list, so that torch does not register it
        self._computes_reference = False
        self._add_head: Callable[[Any], None] = lambda _: None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the policy or, inside ``disable_adapter``, the reference."""
        return (self._references[0] if self._computes_reference else self.model)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the language model that this wrapper does not have, as PEFT's models do."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def get_base_model(self) -> Any:
        """Return the causal language model that computes: the policy or, inside ``disable_adapter``, the reference."""
        return self._references[0] if self._computes_reference else self.model

    def set_head(self, add_head: Callable[[Any], None]) -> None:
        """Replace the fused output head of the policy, of the reference, and of a reference that is loaded later."""
        self._add_head = add_head
        for model in (self.model, *self._references):
            vars(model).pop("forward", None)  # the earlier head's, which hides the class's
            add_head(model)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Compute the reference inside the block, which is loaded if it is not."""
        if not self._references:
            reference = self._load_reference().to(next(self.model.parameters()).device)
            reference.requires_grad_(False).eval()
            self._add_head(reference)
            self._references.append(reference)
        self._computes_reference = True
        try:
            yield
        finally:
            self._computes_reference = False

    def drop_reference(self) -> None:
        """Free the memory of the reference; it is loaded again when it is needed."""
        self._references.clear()


def pack_weights(model: FullModel, dtype: torch.dtype) -> tuple[dict[str, bytes], dict[str, int]]:
    """Return the file of the policy's weights in ``dtype``, name -> content, and the checksum of each layer.

    The checksums are computed on the model's device.
    """
    weights: dict[str, Tensor] = {}
    sums: dict[str, int] = {}
    for name, tensor in saved_weights(model).items():
        cast = tensor.to(dtype)
        add_weight(sums, name, cast)
        weights[name] = cast.cpu().contiguous()
    return {WEIGHTS_FILE: save(weights)}, sums


def saved_weights(model: FullModel) -> Mapping[str, Tensor]:
    """Return the policy's weights, named and laid out as in the model's files; tied ones once."""
    seen: set[tuple[int, torch.Size]] = set()
    weights: dict[str, Tensor] = {}
    for name, tensor in model.model.state_dict().items():
        identity = (tensor.data_ptr(), tensor.shape)
        if identity not in seen:
            seen.add(identity)
            weights[name] = tensor.detach()
    converted: Mapping[str, Tensor] = revert_weight_conversion(model.model, weights)
    return converted


def write_full(model: FullModel, tokenizer: Any, folder: Path) -> None:
    """Write the policy as a transformers folder with its tokenizer, in float32, as it is trained."""
    model.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    remove_local_paths(folder)


def check_is_full(checkpoint: Path) -> None:
    """Raise LearnerError for a checkpoint that lacks files of a whole model."""
    index = checkpoint / WEIGHTS_INDEX_FILE
    weights = (
        set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else {WEIGHTS_FILE}
    )
    missing = [name for name in (CONFIG_FILE, *sorted(weights)) if not (checkpoint / name).is_file()]
    if missing:
        raise LearnerError(f"it has no {', '.join(missing)}")
