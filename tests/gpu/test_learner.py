"""GPU acceptance suite: the learner's numbers compared with exact ones, its checkpoints, and its process group."""

import concurrent.futures
import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from cluster.run.base_gaps import NUM_PROBES, PROBE_TOKENS
from cluster.types import Group
from tests.gpu.conftest import Report
from tests.gpu.one_rank import sum_over_one_rank
from tests.learner.factories import VOCABULARY, group
from tests.learner.scoring import sampled_by
from tests.learner.training.test_probe import TILE, MostLogits

pytestmark = pytest.mark.slow
MakeLearner = Callable[..., Any]

ALL_AT_ONCE, IN_PARTS = 100_000, 40  # learner.micro_batch_tokens
# SGD shows gradients unchanged; AdamW turns a gradient near 0 into a whole step.
SGD = {"optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "max_grad_norm": 1e6}
MAX_PROBE_GIB = 0.3
GIB = 1024**3


@pytest.mark.gpu("fused head against float64", "logprobs < 0.02 nats, gradient < 2e-2 of its norm")
def test_the_fused_head_computes_the_logprobs_and_gradients_of_float64(report: Report, device: str) -> None:
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE, _ChunkedLogProbFunction

    # More columns than one tile of the head, on both devices.
    num_tokens, width, vocabulary = (2048, 1536, 151_936) if device == "cuda" else (64, 192, 34_000)
    assert vocabulary > _CHUNKED_LOGPROB_CHUNK_SIZE
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, device=device, generator=generator)).bfloat16()

    hidden, weight = normal(num_tokens, width), normal(vocabulary, width, scale=2 * width**-0.5)
    labels = torch.randint(vocabulary, (num_tokens,), device=device, generator=generator)
    advantages = normal(num_tokens)
    found_input = hidden.clone().requires_grad_()
    found = _ChunkedLogProbFunction.apply(
        found_input, weight, None, labels, 0.9, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ("log_probs",)
    )[0]
    torch.autograd.backward((found * advantages).sum())
    exact_input = hidden.double().requires_grad_()
    exact = (exact_input @ weight.double().T / 0.9).log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    torch.autograd.backward((exact * advantages.double()).sum())
    assert found_input.grad is not None and exact_input.grad is not None
    error = (found.double() - exact).abs().max().item()
    gradient = ((found_input.grad.double() - exact_input.grad).norm() / exact_input.grad.norm()).item()
    report(f"logprobs {error:.1e}, gradient {gradient:.1e}", passed=error < 0.02 and gradient < 2e-2)


def batches(model_folder: Path) -> list[list[Group]]:
    """Two batches of uneven groups, from a sampler with slightly wrong logprobs."""
    seeds = ((0, 1, 2), (3, 4))
    return [
        [sampled_by(model_folder, group([1.0, 0.0, 0.5, 0.25], seed=seed), shift=0.1) for seed in batch_seeds]
        for batch_seeds in seeds
    ]


def adapter(learner: Any) -> Tensor:
    """All weights of the adapter as one vector, in float32."""
    weights = load(learner.adapter_files()["adapter_model.safetensors"])
    return torch.cat([weights[name].reshape(-1) for name in sorted(weights)])


def train(learner: Any, steps: list[list[Group]]) -> tuple[list[float], Tensor]:
    """Loss of each step, and the update of the adapter by all of them."""
    before = adapter(learner)
    losses = [learner.step(groups)[1].metrics["loss"] for groups in steps]
    return losses, adapter(learner) - before


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert expected.norm().item() > 1e-3  # the update is not zero
    return float((found - expected).norm() / expected.norm())


@pytest.mark.gpu(
    "update of two SGD steps in float32, against the CPU in one micro-batch", "error < 1e-4 of the update's norm"
)
def test_steps_in_float32_have_the_gradients_of_the_cpu(
    report: Report, gpus: float, model_folder: Path, make_learner: MakeLearner
) -> None:
    steps = batches(model_folder)
    reference = make_learner(checkpoints="cpu", dtype="float32", micro_batch_tokens=ALL_AT_ONCE, **SGD)
    found = make_learner(checkpoints="found", dtype="float32", micro_batch_tokens=IN_PARTS, gpus=gpus, **SGD)
    error = relative_error(train(found, steps)[1], train(reference, steps)[1])
    report(f"{error:.1e}", passed=error < 1e-4)


@pytest.mark.gpu("SGD step in bfloat16, against the CPU in float32", "loss < 0.02, update < 0.15 of its norm")
def test_a_step_in_bfloat16_is_close_to_the_step_of_the_cpu_in_float32(
    report: Report, gpus: float, model_folder: Path, make_learner: MakeLearner
) -> None:
    steps = batches(model_folder)[:1]
    reference = make_learner(checkpoints="cpu", dtype="float32", micro_batch_tokens=ALL_AT_ONCE, **SGD)
    found = make_learner(checkpoints="found", dtype="bfloat16", micro_batch_tokens=IN_PARTS, gpus=gpus, **SGD)
    ((loss,), update), ((exact_loss,), exact_update) = train(found, steps), train(reference, steps)
    error = relative_error(update, exact_update)
    report(
        f"loss {abs(loss - exact_loss):.1e}, update {error:.1e}", passed=abs(loss - exact_loss) < 0.02 and error < 0.15
    )


@pytest.mark.gpu(
    "SGD step in float32 on a quantized base, against the CPU in one micro-batch", "error < 0.02 of the update's norm"
)
@pytest.mark.parametrize("kind", ["nf4", "fp8"])
def test_a_step_on_a_quantized_base_is_close_to_the_step_of_the_cpu(
    kind: str, report: Report, gpus: float, model_folder: Path, make_learner: MakeLearner
) -> None:
    steps = batches(model_folder)[:1]
    options = {"quantization": kind, **SGD}
    reference = make_learner(checkpoints="cpu", dtype="float32", micro_batch_tokens=ALL_AT_ONCE, **options)
    found = make_learner(checkpoints="found", dtype="float32", micro_batch_tokens=IN_PARTS, gpus=gpus, **options)
    error = relative_error(train(found, steps)[1], train(reference, steps)[1])
    report(f"{error:.1e}", passed=error < 0.02)


@pytest.mark.gpu("save and resume, with dropout and AdamW", "update of the next step < 1e-3 of its norm")
def test_a_resumed_learner_takes_the_same_step_as_the_first_learner(
    report: Report, gpus: float, model_folder: Path, make_learner: MakeLearner
) -> None:
    first, second = batches(model_folder)
    learner = make_learner(dropout=0.3, gpus=gpus)
    learner.step(first)
    learner.save_checkpoint()
    expected = train(learner, [second])[1]
    resumed = make_learner(dropout=0.3, gpus=gpus)  # from the same checkpoints
    error = relative_error(train(resumed, [second])[1], expected)
    report(f"{error:.1e}", passed=error < 1e-3)


def probes(vocabulary: int) -> list[list[int]]:
    """Probe prompts of the number and length that a run has."""
    source = random.Random(0)
    return [[source.randrange(3, vocabulary) for _ in range(PROBE_TOKENS)] for _ in range(NUM_PROBES)]


@pytest.mark.gpu(
    f"memory of scoring {NUM_PROBES} probe prompts of {PROBE_TOKENS} tokens",
    f"GPU: < {MAX_PROBE_GIB} GiB above the peak before; CPU: no row of logits",
)
def test_scoring_the_probe_prompts_takes_little_memory(
    report: Report,
    device: str,
    gpus: float,
    request: pytest.FixtureRequest,
    make_learner: MakeLearner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if device == "cuda":
        rows = probes(1000)
        learner = make_learner(gpus=gpus, planned={"model": str(request.getfixturevalue("shaped_model"))})
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        learner._training.run(lambda: learner._trainer.score(rows))
        extra = (torch.cuda.max_memory_allocated() - before) / GIB
        report(f"{extra:.2f} GiB", passed=extra < MAX_PROBE_GIB)
        return
    from trl.trainer import utils

    monkeypatch.setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", TILE)  # several tiles also of a small vocabulary
    rows = probes(VOCABULARY)
    learner = make_learner()

    def most_rows() -> int:
        with MostLogits() as logits:
            learner._trainer.score(rows)
        return int(logits.num_rows)

    num_rows = learner._training.run(most_rows)
    report(f"{num_rows} rows of logits", passed=num_rows == 0)


@pytest.mark.gpu("process group of one rank", "GPU: NCCL, CPU: gloo; error of a sum = 0")
def test_a_process_group_of_one_rank_sums(report: Report, device: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as process:
        error, backend = process.submit(sum_over_one_rank, device == "cuda").result(timeout=300)
    report(f"{backend}, error {error:g}", passed=error == 0 and backend == ("nccl" if device == "cuda" else "gloo"))
