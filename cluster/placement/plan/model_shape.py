"""The sizes of a model from its config.json: weights, adapter, and KV cache per token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.config.config import Config
from cluster.config.method import FULL
from cluster.config.model_path import model_path
from cluster.errors import ModelError
from learner.lora_settings import ALL_LINEAR
from learner.training.quiet import silence_libraries
from rollout.weight_sync_modes import weight_sync_mode

if TYPE_CHECKING:
    from learner.training.targets import AdapterSize, FullSize

GIB = 1024**3
BYTES: Mapping[str, float] = {
    "float32": 4,
    "bfloat16": 2,
    "8 bits": 1,
    "4 bits": 0.5625,
}  # of a value; 4 bits with their scales


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder of the Llama family (Qwen2, Llama, Mistral, ...): gated MLP, grouped-query attention."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool  # the output head shares the embedding's weights
    has_qkv_bias: bool

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model."""
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters + self.hidden

    def weight_bytes(self, dtype: str, of_layers: str | None = None) -> float:
        """Bytes of the whole model; ``of_layers`` is the precision of the layers, if these are quantized."""
        in_layers = self.layers * self.layer_parameters
        return (self.num_parameters - in_layers) * BYTES[dtype] + in_layers * BYTES[of_layers or dtype]

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer."""
        attention = 2 * self.hidden * self.heads * self.head_dim + 2 * self.hidden * self.kv_heads * self.head_dim
        bias = (self.heads + 2 * self.kv_heads) * self.head_dim if self.has_qkv_bias else 0
        return attention + bias + 3 * self.hidden * self.intermediate + 2 * self.hidden

    @property
    def projections(self) -> Mapping[str, tuple[int, int]]:
        """Projections of one layer: name -> (inputs, outputs)."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    def targets(self, names: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """Projections of one layer that carry an adapter: name -> (inputs, outputs)."""
        return (
            self.projections
            if tuple(names) == (ALL_LINEAR,)
            else {name: size for name, size in self.projections.items() if name in names}
        )

    def num_adapter_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Parameters of a LoRA adapter: ``rank`` x (inputs + outputs) of each target, in every layer."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.targets(targets).values())

    def cache_bytes_per_token(self, dtype: str, num_gpus: int = 1) -> float:
        """Bytes of one token's keys and values on each GPU that the model is split over, which has at least one head."""
        return 2 * self.layers * max(1, self.kv_heads // num_gpus) * self.head_dim * BYTES[dtype]


def shape_of(model: str) -> ModelShape:
    """The shape of a model folder or Hugging Face id; raises ModelError if its configuration cannot be read."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the configuration of model {model!r} cannot be read: {str(error).splitlines()[0]}; give a folder with its "
            "config.json"
        ) from error
    return shape_from(config.to_dict())


def shape_from(config: Mapping[str, Any]) -> ModelShape:
    """The shape of a ``config.json``; raises ModelError for a model of another family."""
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return ModelShape(
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            has_qkv_bias=bool(config.get("attention_bias", config.get("model_type") == "qwen2")),
        )
    except KeyError as error:
        raise ModelError(
            f"a model of type {config.get('model_type')!r} has no {error}: its memory cannot be estimated"
        ) from error


def adapter_size(config: Config) -> "AdapterSize":
    """The size of the adapter that a learner would train; raises ConfigError for targets that the model lacks, and ModelError."""
    silence_libraries()
    from learner.training.targets import adapter_size

    return adapter_size(model_path(config), config.learner.lora)


def trained_size(config: Config) -> "AdapterSize | FullSize":
    """The size of what a run trains; raises also ModelError if samplers could not load or merge it."""
    if config.learner.method == FULL:
        return _full_size(config)
    size = adapter_size(config)
    weight_sync_mode(config.rollout).check_model(config.model.path, size.transposed)
    return size


def _full_size(config: Config) -> "FullSize":
    silence_libraries()
    from learner.training.targets import full_size

    size = full_size(model_path(config))
    if size.has_experts and not config.rollout.gpus_per_sampler:
        raise ModelError(
            f"model.path={config.model.path} has experts, and vLLM on the CPU cannot replace their weights, which it packs at "
            "its start: sample on a GPU (rollout.gpus_per_sampler), or train an adapter (learner.method=lora)"
        )
    return size
