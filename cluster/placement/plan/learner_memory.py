"""Estimate of the GPU memory of a rank of the learner, before it is started.

Weights, gradients and optimizer state are counted exactly. Activations are counted operation by operation, for a gated MLP under
autocast, with the tensors that ``make bench-memory`` finds saved for the backward pass.
"""

from collections.abc import Collection

from cluster.config.config import Config
from cluster.config.method import FULL
from cluster.placement.plan.memory import RUNTIME_GIB, Memory
from cluster.placement.plan.model_shape import BYTES, GIB, ModelShape

GRADIENT_BYTES = 8  # per adapter parameter: the parameter and its gradient in float32, with every optimizer
ADAPTER_STATE_BYTES = 16  # per adapter parameter: the same and Adam's two moments
RECOMPUTED_LAYERS = 1.3  # activations in the backward pass of a checkpointed layer, as a multiple of the saved ones
FRAGMENTATION = 1.05  # memory of torch's allocator, as a multiple of the tensors that it holds; assumed
GATHERED_LAYERS = 2  # of a sharded model: the layer that computes, and the next one
QUANTIZED = {"nf4": "4 bits", "fp8": "8 bits"}  # learner.quantization -> precision
HEAD_TILE = (4096, 32768)  # rows and columns of logits that TRL's output head computes at a time


def learner_memory(config: Config, shape: ModelShape, limit: float) -> Memory:
    """Memory of one rank of the learner. ``limit``: the GiB that it may use."""
    learner = config.learner
    learner_dtype = "bfloat16" if learner.dtype == "auto" else learner.dtype
    bytes_per_number = BYTES[learner_dtype]
    if learner.method == FULL:
        return _full_memory(config, shape, limit)
    trained = shape.num_adapter_parameters(learner.lora.r, learner.lora.target_modules)
    # A quantized layer is dequantized while it computes; the largest one counts.
    largest = max(inputs * outputs for inputs, outputs in shape.projections.values()) if learner.quantization else 0
    weights = shape.weight_bytes(learner_dtype, QUANTIZED.get(learner.quantization or "")) + largest * bytes_per_number
    if learner.shard_base:  # FSDP: embeddings and head are whole, and only the layers that compute are gathered
        in_layers = shape.layers * shape.layer_parameters * bytes_per_number
        weights += (
            in_layers / learner.num_ranks - in_layers + GATHERED_LAYERS * shape.layer_parameters * bytes_per_number
        )
    parts = {
        "weights": weights / GIB,
        "adapter and optimizer": ADAPTER_STATE_BYTES * trained / GIB,
        **_pass_memory(config, shape, bytes_per_number),
    }
    return Memory(parts=parts, limit=limit, known=parts["weights"] + GRADIENT_BYTES * trained / GIB)


def training_state(config: Config, num_parameters: int) -> dict[str, float]:
    """GiB that a rank holds between steps of full fine-tuning: name -> size.

    The weights are float32 in every dtype of the computation (learner/training/full.py), and so is the reference.
    """
    moments = {"adamw_torch_fused": 2, "adamw_torch": 2}.get(config.learner.optim, 0)  # others: none, or a few per row
    names = {"weights": 1, "gradients": 1, "optimizer": moments, "reference": 1 if uses_reference(config) else 0}
    return {name: number * 4 * num_parameters / GIB for name, number in names.items() if number}


def uses_reference(config: Config) -> bool:
    """Return True if any step of the run has a KL coefficient above 0, which needs the reference model."""
    key = "learner.kl_coefficient"
    sets = [*(entry.set for entry in config.schedule), *(override.set for override in config.resume_overrides)]
    changes = [values[key] for values in sets if key in values]
    return any(value > 0 for value in (config.learner.kl_coefficient, *changes))


def _full_memory(config: Config, shape: ModelShape, limit: float) -> Memory:
    bytes_per_number = BYTES["bfloat16" if config.learner.dtype == "auto" else config.learner.dtype]
    state = training_state(config, shape.num_parameters)
    # Autocast keeps a copy of the weights in the dtype of the pass, from the forward to the backward pass.
    copies = {"cast weights": bytes_per_number * shape.num_parameters / GIB} if bytes_per_number < 4 else {}
    parts = {**state, **copies, **_pass_memory(config, shape, bytes_per_number)}
    return Memory(parts=parts, limit=limit, known=sum(state.values()))


def _pass_memory(config: Config, shape: ModelShape, bytes_per_number: float) -> dict[str, float]:
    """GiB of a forward and backward pass: name -> size."""
    learner, rollout = config.learner, config.rollout
    # A completion that exceeds the budget has a pass of its own.
    num_tokens = max(learner.micro_batch_tokens, rollout.max_prompt_tokens + rollout.max_completion_tokens)
    # The head computes completion tokens only; here all tokens are counted. Its gradient is in float32, then in the pass's dtype.
    head = min(num_tokens, HEAD_TILE[0]) * HEAD_TILE[1] * bytes_per_number + num_tokens * shape.hidden * (
        4 + bytes_per_number
    )
    return {
        "activations": FRAGMENTATION * num_tokens * activation_bytes_per_token(config, shape) / GIB,
        "output head": head / GIB,
        "runtime": RUNTIME_GIB,
    }


def activation_bytes_per_token(config: Config, shape: ModelShape) -> float:
    """Bytes per token that a pass keeps at its peak, at the start of its backward pass."""
    learner = config.learner
    bytes_per_number = BYTES["bfloat16" if learner.dtype == "auto" else learner.dtype]
    per_layer = layer_bytes_per_token(config, shape)
    if learner.gradient_checkpointing:  # each layer keeps its input, and one layer at a time is computed again
        return shape.layers * shape.hidden * bytes_per_number + RECOMPUTED_LAYERS * per_layer
    return shape.layers * per_layer + 8 * shape.hidden  # the last norm: its input and the gradient, in float32


def layer_bytes_per_token(config: Config, shape: ModelShape) -> float:
    """Bytes per token that a layer saves for its backward pass."""
    learner = config.learner
    bytes_per_number = BYTES["bfloat16" if learner.dtype == "auto" else learner.dtype]
    prompt, completion = config.rollout.max_prompt_tokens, config.rollout.max_completion_tokens
    length = prompt + completion
    keys = 1.0  # rows of keys and values per token
    if not (learner.gradient_checkpointing or learner.shard_base):  # completions share the computation of their prompt
        rows = min(config.rollout.group_size, max(1, (learner.micro_batch_tokens - prompt) // completion))
        keys = (prompt + rows * length) / (prompt + rows * completion)
    width = shape.heads * shape.head_dim
    norms = 2 * 4 * (shape.hidden + 1)  # input and scale in float32
    # Queries and output; keys and values, repeated for all heads; the mask; the log-sum of each head.
    attention = bytes_per_number * (2 * width + 2 * width * keys + length) + 4 * shape.heads
    mlp = bytes_per_number * 3 * shape.intermediate  # gate, its activation, up
    return norms + attention + mlp + _trained_bytes_per_token(config, shape, bytes_per_number)


def _trained_bytes_per_token(config: Config, shape: ModelShape, bytes_per_number: float) -> float:
    """Bytes per token saved for the gradients of a layer's trained weights: their inputs, and the inputs of LoRA's B matrices."""
    if config.learner.method == FULL:  # two norms; the inputs of q, k and v, of o, of gate and up, and of down
        return 2 * 4 * shape.hidden + bytes_per_number * (3 * shape.hidden + shape.intermediate)
    lora = config.learner.lora
    targets = shape.targets(lora.target_modules)
    inner = bytes_per_number * lora.r * len(targets)
    if lora.dropout:  # each adapter has a copy of its input, and a mask of one byte
        return inner + sum((bytes_per_number + 1) * inputs for inputs, _ in targets.values())
    return inner + bytes_per_number * sum(_distinct_inputs(targets, shape))


def _distinct_inputs(targets: Collection[str], shape: ModelShape) -> list[int]:
    """Widths of the inputs that are saved only for LoRA targets, each counted once.

    Several targets read the same input; the input of o_proj is not counted, because attention saves its output anyway.
    """
    readers = {
        ("q_proj", "k_proj", "v_proj"): shape.hidden,
        ("gate_proj", "up_proj"): shape.hidden,
        ("down_proj",): shape.intermediate,
    }
    return [width for names, width in readers.items() if set(names) & set(targets)]
