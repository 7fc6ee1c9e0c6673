"""Comparison of an adapter with vLLM's layers, on stand-ins of these layers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rollout.bound_weights import BoundModules

SLOTS, SLOT, RANK, WIDTH, VOCABULARY = 3, 1, 2, 6, 20
PREFIX = "base_model.model."
Weights = dict[str, torch.Tensor]
# Returns names of an adapter's modules: named in the files, bound, differing.
Compare = Callable[..., tuple[list[str], list[str], list[str]]]


def linear(*, sizes: Sequence[int] = (WIDTH,), rank: int = RANK) -> SimpleNamespace:
    """A linear layer of one or several packed projections."""
    return SimpleNamespace(
        tp_size=1,
        lora_a_stacked=tuple(torch.zeros(SLOTS, 1, rank, WIDTH) for _ in sizes),
        lora_b_stacked=tuple(torch.zeros(SLOTS, 1, size, rank) for size in sizes),
        base_layer=SimpleNamespace(output_sizes=list(sizes)),
    )


def embeddings() -> SimpleNamespace:
    """Layer with the attributes of VocabParallelEmbeddingWithLoRA."""
    return SimpleNamespace(
        lora_a_stacked=torch.zeros(SLOTS, VOCABULARY, RANK), lora_b_stacked=torch.zeros(SLOTS, 1, WIDTH, RANK)
    )


def head() -> SimpleNamespace:
    """Layer with the attributes of LogitsProcessorWithLoRA."""
    return SimpleNamespace(
        lora_a_stacked=torch.zeros(SLOTS, 1, RANK, WIDTH), lora_b_stacked=torch.zeros(SLOTS, 1, VOCABULARY, RANK)
    )


def experts() -> SimpleNamespace:
    """Layer with the attributes of FusedMoEWithLoRA: a list of views for each slot and expert, and stacks of all."""
    gate_up = torch.zeros(SLOTS, 4, RANK, WIDTH)
    return SimpleNamespace(
        lora_a_stacked=[gate_up[0, 0]],
        lora_b_stacked=[gate_up[0, 0]],
        w13_lora_a_stacked=(gate_up, gate_up.clone()),
        w2_lora_a_stacked=(torch.zeros(SLOTS, 4, RANK, WIDTH),),
    )


class Mapper:
    """Double of vLLM's WeightsMapper for a model whose language part has another prefix than in transformers."""

    def get_rename_mapper(self) -> "Mapper":
        return self

    def _map_name(self, key: str) -> str:
        return key.replace("model.language_model.", "language_model.model.")


@pytest.fixture
def layers() -> dict[str, Any]:
    """A model whose LoRA wraps embeddings and head too."""
    return {
        "model.embed_tokens": embeddings(),
        "model.layers.0.self_attn.qkv_proj": linear(sizes=(WIDTH, 4, 4)),
        "model.layers.0.mlp.gate_up_proj": linear(sizes=(8, 8)),
        "model.layers.0.mlp.down_proj": linear(),
        "model.layers.0.mlp.experts": experts(),
        "lm_head": head(),
    }


@pytest.fixture
def compare(layers: dict[str, Any], tmp_path: Path) -> Compare:
    """Compares an adapter, given as its factors by name, with the layers of a worker."""

    def compare_adapter(
        weights: Weights,
        *,
        mapper: Mapper | None = None,
        packed: dict[str, list[str]] | None = None,
        dtype: torch.dtype = torch.float32,
        **config: object,
    ) -> tuple[list[str], list[str], list[str]]:
        save_file(
            {f"{PREFIX}{name}": tensor.contiguous() for name, tensor in weights.items()},
            tmp_path / "adapter_model.safetensors",
        )
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": 2 * RANK, **config}))
        worker = BoundModules()
        manager = SimpleNamespace(
            device=torch.device("cpu"),
            lora_config=SimpleNamespace(lora_dtype=dtype),
            modules=layers,
            model=SimpleNamespace(hf_to_vllm_mapper=mapper),
            packed_modules_mapping=packed
            or {
                "qkv_proj": ["q_proj", "k_proj", "v_proj"],
                "gate_up_proj": ["gate_proj", "up_proj"],
                "experts": ["experts.0.gate_proj", "experts.0.down_proj", "experts.0.up_proj"],
            },
            lora_index_to_id=[None, 7, None],
            activate_adapter=lambda _: False,
        )
        worker.model_runner = SimpleNamespace(lora_manager=SimpleNamespace(_adapter_manager=manager))
        return worker.bound_modules(7, str(tmp_path))

    return compare_adapter


def test_targets_without_lora_support_are_named(layers: dict[str, Any]) -> None:
    worker = BoundModules()
    manager = SimpleNamespace(
        modules=layers, model=SimpleNamespace(), packed_modules_mapping={"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
    )
    worker.model_runner = SimpleNamespace(lora_manager=SimpleNamespace(_adapter_manager=manager))
    assert worker.targets_without_lora(["q_proj", "down_proj", "c_fc", "experts"]) == ["c_fc"]


def factors(name: str, size: int = WIDTH) -> Weights:
    return {f"{name}.lora_A.weight": torch.randn(RANK, WIDTH), f"{name}.lora_B.weight": torch.randn(size, RANK)}


def load(layer: SimpleNamespace, weights: Weights, names: Sequence[str], scale: float = 2.0) -> None:
    """Store an adapter in a layer as vLLM's set_lora does."""
    for name, a, b in zip(names, layer.lora_a_stacked, layer.lora_b_stacked, strict=True):
        a[SLOT, 0] = weights[f"{name}.lora_A.weight"]
        b[SLOT, 0] = weights[f"{name}.lora_B.weight"] * scale


QKV = tuple(f"model.layers.0.self_attn.{part}_proj" for part in "qkv")
DOWN = "model.layers.0.mlp.down_proj"


@pytest.fixture
def weights(layers: dict[str, Any]) -> Weights:
    """An adapter of attention and MLP that is loaded correctly."""
    weights = factors(DOWN) | factors(QKV[0]) | factors(QKV[1], 4) | factors(QKV[2], 4)
    load(layers["model.layers.0.self_attn.qkv_proj"], weights, QKV)
    load(layers[DOWN], weights, [DOWN])
    return weights


def test_embeddings_head_and_experts_without_weights_are_not_bound(compare: Compare, weights: Weights) -> None:
    named, bound, differing = compare(weights)
    assert named == bound == sorted([*QKV, DOWN])
    assert differing == []


def test_differing_weights_are_found_next_to_embeddings(
    compare: Compare, layers: dict[str, Any], weights: Weights
) -> None:
    layers[DOWN].lora_b_stacked[0][SLOT, 0, 0, 0] += 1
    layers["model.layers.0.self_attn.qkv_proj"].lora_a_stacked[1][SLOT] = 0
    assert compare(weights)[2] == [DOWN, QKV[1]]


def test_a_projection_of_a_packed_layer_without_weights_is_not_bound(
    compare: Compare, layers: dict[str, Any], weights: Weights
) -> None:
    for stacked in ("lora_a_stacked", "lora_b_stacked"):
        getattr(layers["model.layers.0.self_attn.qkv_proj"], stacked)[2][SLOT] = 0
    named, bound, differing = compare(weights)
    assert sorted(set(named) - set(bound)) == [QKV[2]]
    assert differing == []


@pytest.mark.parametrize("name", ["model.embed_tokens", "lm_head"])
def test_embeddings_and_head_with_weights_are_surplus_and_differ_from_the_files(
    compare: Compare, layers: dict[str, Any], weights: Weights, name: str
) -> None:
    layers[name].lora_b_stacked[SLOT, 0, 0, 0] = 1
    named, bound, differing = compare(weights)
    assert set(bound) - set(named) == {name}
    assert differing == [name]


def test_embeddings_and_head_of_the_files_are_compared_like_other_modules(
    compare: Compare, layers: dict[str, Any], weights: Weights
) -> None:
    a, b = torch.randn(RANK, VOCABULARY), torch.randn(WIDTH, RANK)
    weights |= {"model.embed_tokens.lora_embedding_A": a, "model.embed_tokens.lora_embedding_B": b}
    weights |= factors("lm_head", VOCABULARY)
    layers["model.embed_tokens"].lora_a_stacked[SLOT] = a.T
    layers["model.embed_tokens"].lora_b_stacked[SLOT, 0] = 2 * b
    layers["lm_head"].lora_a_stacked[SLOT, 0] = weights["lm_head.lora_A.weight"]
    layers["lm_head"].lora_b_stacked[SLOT, 0] = 2 * weights["lm_head.lora_B.weight"]
    named, bound, differing = compare(weights)
    assert {"lm_head", "model.embed_tokens"} < set(named)
    assert (named, differing) == (bound, [])
    layers["model.embed_tokens"].lora_a_stacked[SLOT, 3] += 1
    layers["lm_head"].lora_b_stacked[SLOT, 0, 3] += 1
    assert compare(weights)[2] == ["lm_head", "model.embed_tokens"]


def test_experts_with_weights_are_surplus(compare: Compare, layers: dict[str, Any], weights: Weights) -> None:
    layers["model.layers.0.mlp.experts"].w2_lora_a_stacked[0][SLOT, 2, 0, 0] = 1
    named, bound, differing = compare(weights)
    assert set(bound) - set(named) == set(differing) == {"model.layers.0.mlp.experts"}


def test_renamed_modules_have_the_names_of_the_files(
    compare: Compare, layers: dict[str, Any], weights: Weights
) -> None:
    for name in list(layers):
        if name.startswith("model."):
            layers[f"language_{name.replace('model.', 'model.model.', 1)}"] = layers.pop(name)
    weights = {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in weights.items()}
    named, bound, differing = compare(weights, mapper=Mapper())
    assert named == bound == sorted(name.replace("model.", "model.language_model.", 1) for name in [*QKV, DOWN])
    assert differing == []


@pytest.mark.parametrize("packed", [["in_proj_qkvz"], ["in_proj_qkv", "in_proj_z"]])
def test_a_module_of_the_files_may_be_several_slices_of_a_layer(
    compare: Compare, layers: dict[str, Any], packed: list[str]
) -> None:
    layers.clear()
    sizes = (4, 4, 6, 6)
    layer = layers["model.layers.0.in_proj_qkvz"] = linear(sizes=sizes)
    names = [f"model.layers.0.{part}" for part in packed]
    rows = [20] if len(packed) == 1 else [14, 6]
    weights = {
        key: tensor for name, size in zip(names, rows, strict=True) for key, tensor in factors(name, size).items()
    }
    owners = [names[0]] * 3 + [names[-1]]
    held_b = torch.cat([weights[f"{name}.lora_B.weight"] for name in names]).split(sizes)  # type: ignore[no-untyped-call]  # torch ships it untyped
    for index, owner in enumerate(owners):
        layer.lora_a_stacked[index][SLOT, 0] = weights[f"{owner}.lora_A.weight"]
        layer.lora_b_stacked[index][SLOT, 0] = 2 * held_b[index]
    assert compare(weights, packed={"in_proj_qkvz": packed}) == (names, names, [])
    layer.lora_b_stacked[3][SLOT, 0, 0, 0] += 1
    assert compare(weights, packed={"in_proj_qkvz": packed})[2] == [names[-1]]


def test_a_fused_projection_of_the_files_is_one_module(compare: Compare, layers: dict[str, Any]) -> None:
    layers.clear()
    layer = layers["model.layers.0.self_attn.qkv_proj"] = linear(sizes=(14,))
    weights = factors("model.layers.0.self_attn.qkv_proj", 14)
    load(layer, weights, ["model.layers.0.self_attn.qkv_proj"])
    named, bound, differing = compare(weights, packed={"qkv_proj": ["qkv_proj"]})
    assert (named, differing) == (bound, [])
    layer.lora_b_stacked[0][SLOT, 0, 13] += 1
    assert compare(weights, packed={"qkv_proj": ["qkv_proj"]})[2] == named


STEP = 5e-6  # an Adam step moves every weight by up to the learning rate
Fault = Callable[[dict[str, Any], Weights], None]


def vllm_load(layers: dict[str, Any], weights: Weights, scale: float) -> None:
    """Load attention and MLP in bfloat16 as vLLM does: cast, scale B, copy."""
    for packed, names in (("model.layers.0.self_attn.qkv_proj", QKV), (DOWN, (DOWN,))):
        layer = layers[packed]
        for stacked in ("lora_a_stacked", "lora_b_stacked"):
            setattr(layer, stacked, tuple(each.bfloat16() for each in getattr(layer, stacked)))
        load(layer, {name: tensor.bfloat16() for name, tensor in weights.items()}, names, scale)


def moved(weights: Weights, distance: float) -> Weights:
    """Return the weights after some Adam steps: each element of B is moved by ``distance``, up or down."""
    return {
        name: tensor + (distance * torch.randn_like(tensor).sign() if "lora_B" in name else 0)
        for name, tensor in weights.items()
    }


def wrong(layers: dict[str, Any], weights: Weights) -> None:
    vllm_load(layers, moved(weights, 2 * STEP), 2.0)


def stale(layers: dict[str, Any], weights: Weights) -> None:
    vllm_load(layers, moved(weights, STEP), 2.0)


def scaled(layers: dict[str, Any], weights: Weights) -> None:
    vllm_load(layers, weights, 1.0)


def one_projection(layers: dict[str, Any], weights: Weights) -> None:
    vllm_load(layers, weights, 2.0)
    down_b = f"{DOWN}.lora_B.weight"
    vllm_load(layers, weights | {down_b: moved(weights, STEP)[down_b]}, 2.0)


@pytest.mark.parametrize("num_steps", [1, 1000])
@pytest.mark.parametrize(
    ("fault", "differing"),
    [(wrong, {*QKV, DOWN}), (stale, {*QKV, DOWN}), (scaled, {*QKV, DOWN}), (one_projection, {DOWN})],
)
def test_a_single_small_step_in_bfloat16_is_a_difference(
    compare: Compare, layers: dict[str, Any], num_steps: int, fault: Fault, differing: set[str]
) -> None:
    # Enough weights that some change in bfloat16: after 1000 steps, one more step is too small to change each weight.
    size = 96
    layers["model.layers.0.self_attn.qkv_proj"], layers[DOWN] = linear(sizes=(size,) * 3), linear(sizes=(size,))
    start = {
        name: torch.randn_like(tensor) * (0.02 if "lora_A" in name else STEP * (num_steps - 1) / 2)
        for module in (*QKV, DOWN)
        for name, tensor in factors(module, size).items()
    }
    published = moved(start, STEP)
    vllm_load(layers, published, 2.0)
    assert compare(published, dtype=torch.bfloat16)[2] == []
    fault(layers, published)
    assert set(compare(published, dtype=torch.bfloat16)[2]) == differing


def test_a_module_without_weights_is_not_bound(compare: Compare, layers: dict[str, Any], weights: Weights) -> None:
    layers[DOWN].lora_a_stacked[0][SLOT] = layers[DOWN].lora_b_stacked[0][SLOT] = 0
    named, bound, differing = compare(weights)
    assert (set(named) - set(bound), differing) == ({DOWN}, [])


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 3}, 1.5),  # not a power of 2: B is rounded again
        ({"lora_alpha": 3, "use_rslora": True}, 3 / 2**0.5),
        ({"alpha_pattern": {"self_attn.[qkv]_proj": 5, "down_proj": 5}, "rank_pattern": {}}, 2.5),
    ],
)
def test_the_scale_is_that_of_the_adapters_configuration(
    compare: Compare, layers: dict[str, Any], config: dict[str, object], scale: float
) -> None:
    weights = factors(DOWN) | factors(QKV[0]) | factors(QKV[1], 4) | factors(QKV[2], 4)
    vllm_load(layers, weights, scale)
    named, bound, differing = compare(weights, dtype=torch.bfloat16, **config)
    assert (named, differing) == (bound, [])
    assert compare(weights, dtype=torch.bfloat16)[2] == named


def test_weights_in_the_padding_are_a_difference(compare: Compare, layers: dict[str, Any], weights: Weights) -> None:
    layers[DOWN] = linear(rank=RANK + 2)
    for stacked, part in (("lora_a_stacked", (slice(RANK),)), ("lora_b_stacked", (slice(None), slice(RANK)))):
        factor = weights[f"{DOWN}.lora_{stacked[5].upper()}.weight"]
        getattr(layers[DOWN], stacked)[0][(SLOT, 0, *part)] = factor * (2 if "b_" in stacked else 1)
    assert compare(weights)[2] == []
    layers[DOWN].lora_a_stacked[0][SLOT, 0, RANK] = 1
    assert compare(weights)[2] == [DOWN]
