"""The step in bfloat16: loss and gradients compared with float32, and tensors kept for the backward pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from learner.batch.micro_batches import plan_micro_batches
from learner.batch.selection import select
from learner.batch.tensors import MicroBatch, micro_batch_tensors
from tests.learner.factories import TEMPERATURE, group, settings
from tests.learner.scoring import sampled_by

pytestmark = pytest.mark.slow
MakeLearner = Callable[..., Any]

HIDDEN, NUM_LAYERS, BYTES = 64, 2, 2  # of tests/learner/conftest.py's model, and of bfloat16


def micro_batch(model_folder: Path) -> MicroBatch:
    groups = [sampled_by(model_folder, group([1.0, 0.0, 0.5, 0.25], seed=seed), shift=0.1) for seed in range(3)]
    rows = select(groups, settings=settings(), learner_version=0, max_staleness=0, temperature=TEMPERATURE).rows
    plans = plan_micro_batches(rows, max_padded_tokens=10_000, shares_prompts=False)
    (batch,) = micro_batch_tensors(plans, pad_token_id=2, loss_type="dapo")
    return batch


def fill_adapter(model: Any) -> None:
    """Give both halves of the adapter values, the same for every model of this shape."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)


def loss_and_gradients(learner: Any, batch: MicroBatch) -> tuple[float, torch.Tensor, int]:
    """Loss, all gradients as one vector, and bytes that the forward pass keeps for the backward pass, without weights."""
    trainer = learner._trainer
    trainer.shares_prompts = False
    trainer.current_gradient_accumulation_steps = 1  # transformers sets it in the first step
    kept: dict[int, int] = {}

    def compute() -> tuple[float, torch.Tensor, int]:
        fill_adapter(trainer.model)
        weights = {each.untyped_storage().data_ptr() for each in trainer.model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        trainer.model.zero_grad()
        inputs = trainer._prepare_inputs(batch)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = trainer.compute_loss(trainer.model, inputs)
            num_bytes = sum(kept.values())
        loss.backward()
        gradients = [each.grad.reshape(-1) for each in trainer.model.parameters() if each.grad is not None]
        return loss.item(), torch.cat(gradients), num_bytes

    result: tuple[float, torch.Tensor, int] = learner._training.run(compute)
    return result


def test_loss_and_gradients_in_bfloat16_are_close_to_float32_and_the_adapter_is_float32(
    model_folder: Path, make_learner: MakeLearner
) -> None:
    batch = micro_batch(model_folder)
    exact, rounded = (make_learner(dtype=name, checkpoints=name) for name in ("float32", "bfloat16"))
    loss, gradients, _ = loss_and_gradients(exact, batch)
    loss_16, gradients_16, _ = loss_and_gradients(rounded, batch)
    assert {each.dtype for each in rounded._trainer.model.parameters() if each.requires_grad} == {torch.float32}
    assert gradients_16.dtype == torch.float32
    assert loss_16 == pytest.approx(loss, abs=0.02)
    assert ((gradients_16 - gradients).norm() / gradients.norm()).item() < 0.05


def test_without_casts_projections_keep_their_common_input_once_and_compute_the_same(
    model_folder: Path, make_learner: MakeLearner
) -> None:
    batch = micro_batch(model_folder)
    learner = make_learner(dtype="bfloat16")
    loss, gradients, num_bytes = loss_and_gradients(learner, batch)
    for module in learner._trainer.model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = True  # PEFT's default
    loss_cast, gradients_cast, num_bytes_cast = loss_and_gradients(learner, batch)
    assert (loss_cast, gradients_cast.tolist()) == (loss, gradients.tolist())
    num_tokens = batch["prompt_ids"].numel() + batch["completion_ids"].numel()
    # q, k and v have one input, gate and up another one.
    assert (num_bytes_cast - num_bytes) / num_tokens / NUM_LAYERS >= (2 + 1) * HIDDEN * BYTES
