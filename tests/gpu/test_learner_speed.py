"""GPU acceptance suite: memory and speed of the learner's steps, in a separate process as in a run."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from benchmarks.contestants import Contestant
from benchmarks.learner_contestants import Work, caravan, make_groups
from benchmarks.memory import compare
from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.placement.plan.learner_memory import learner_memory
from cluster.placement.plan.machines import this_machine
from cluster.placement.plan.model_shape import shape_of
from learner.client import ON_GPU
from tests.gpu.conftest import Report

pytestmark = pytest.mark.slow

LENGTH = 256  # tokens of each prompt and each completion
NUM_GROUPS, NUM_STEPS = 4, 4
NUM_GROUPS_CPU, NUM_STEPS_CPU, TOKENS_CPU = 1, 2, 1024
TURN_SECONDS = 300.0
MIN_MFU, MIN_MFU_CPU = 0.25, 0.05
MIN_BUSY = 0.7
FLOPS_PER_PARAMETER = 4  # per token: forward, and backward to the inputs of frozen weights
MEMORY_CASES = [
    *((tokens, checkpointing, 0.0) for tokens in (2048, 4096, 8192) for checkpointing in (False, True)),
    (4096, False, 0.05),
    (4096, True, 0.05),
]
QUICK_CASES = ((2048, False, 0.0), (4096, True, 0.05))  # of the stand-ins in `make test`


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Measurements of a few steps."""

    tokens_per_second: float  # computed tokens: prompts once per group, and completions
    peak_gib: float  # of torch's allocations on a GPU, of the process on the CPU
    busy: float  # share of the time in which the GPU computes; 0 on the CPU


Measure = Callable[[int, bool, float], Steps]


def settings(tokens: int, *, checkpointing: bool, dropout: float) -> list[str]:
    """Settings of a learner on a GPU; with them, a group without checkpointing is one micro-batch."""
    return [
        f"max_prompt_tokens={LENGTH}",
        f"max_completion_tokens={LENGTH}",
        f"group_size={tokens // LENGTH - 1}",
        f"micro_batch_tokens={tokens}",
        f"gradient_checkpointing={str(checkpointing).lower()}",
        f"lora.dropout={dropout}",
    ]


def config_of(tokens: int, checkpointing: bool, dropout: float, *, gpus: float) -> Config:
    words = settings(tokens, checkpointing=checkpointing, dropout=dropout)
    return load_config(None, [*words, f"learner.gpus={gpus}", f"gpus_per_sampler={gpus}"], environment={})


@contextmanager
def busy_share(device: str) -> Iterator[list[float]]:
    """Record the GPU utilization that the driver reports, ten times a second."""
    import torch

    found: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            found.append(torch.cuda.utilization() / 100)

    watcher = threading.Thread(target=watch, daemon=True)
    if device == "cuda":
        watcher.start()
    try:
        yield found
    finally:
        ended.set()
        if device == "cuda":
            watcher.join()


@pytest.fixture(scope="module")
def measure(shaped_model: Path, device: str, gpus: float, tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """Measure steps with ``micro_batch_tokens``, ``gradient_checkpointing`` and ``lora.dropout``, each combination once."""
    os.environ |= ON_GPU  # as in the learner's actor
    num_groups, num_steps = (NUM_GROUPS, NUM_STEPS) if device == "cuda" else (NUM_GROUPS_CPU, NUM_STEPS_CPU)

    @cache
    def measured(tokens: int, checkpointing: bool, dropout: float) -> Steps:
        folder = tmp_path_factory.mktemp("steps")
        learner = config_of(tokens, checkpointing, dropout, gpus=gpus).learner
        groups = make_groups(num_groups=num_groups, group_size=tokens // LENGTH - 1, vocabulary=1000, uneven=False)
        work = Work(model=str(shaped_model), settings=learner, groups=groups, num_steps=num_steps, scratch=folder)
        with Contestant("learner", caravan, work, log=folder / "log") as contestant:
            contestant.wait_until_ready()
            if device == "cuda":
                contestant.run_turn(TURN_SECONDS)  # compiles kernels
            with busy_share(device) as busy:
                turn = contestant.run_turn(TURN_SECONDS)
        num_tokens = num_groups * tokens
        return Steps(
            tokens_per_second=num_tokens / min(turn["wall"]),
            peak_gib=turn["peak_mib"] / 1024,
            busy=sum(busy) / len(busy) if busy else 0.0,
        )

    return measured


@pytest.mark.gpu(
    "memory by caravan plan over the measured peak, Qwen2.5 1.5B",
    "GPU: all of a step, 1.0 to 1.3; CPU: activations by their tensors' sizes, 0.9 to 1.3",
)
@pytest.mark.parametrize(
    ("tokens", "checkpointing", "dropout"),
    [pytest.param(*case, marks=() if case in QUICK_CASES else pytest.mark.long) for case in MEMORY_CASES],
    ids=lambda value: (
        {True: "checkpointing", False: "no checkpointing"}[value]
        if isinstance(value, bool)
        else f"dropout {value}"
        if isinstance(value, float)
        else f"{value} tokens"
    ),
)
def test_plan_covers_the_memory_of_a_step(
    tokens: int, checkpointing: bool, dropout: float, report: Report, device: str, request: pytest.FixtureRequest
) -> None:
    if device == "cpu":
        row = compare("1.5B", settings(tokens, checkpointing=checkpointing, dropout=dropout))
        report(
            f"{row['ratio']:.2f} ({row['peak_planned']:.0f} / {row['peak_measured']:.0f} KiB per token)",
            passed=0.9 <= row["ratio"] <= 1.3,
        )
        return
    config = config_of(tokens, checkpointing, dropout, gpus=1.0)
    memory = learner_memory(config, shape_of(str(request.getfixturevalue("shaped_model"))), limit=0.0)
    room = this_machine().gpu
    if room is not None and room.gib is not None and memory.total > room.gib:
        pytest.skip(f"plan needs {memory.total:.0f} GiB, and the GPU has {room.gib:.0f}")
    planned = memory.total - memory.parts["runtime"]  # without CUDA's context, which torch does not count
    measured = request.getfixturevalue("measure")(tokens, checkpointing, dropout).peak_gib
    report(f"{planned / measured:.2f} ({planned:.1f} / {measured:.1f} GiB)", passed=1.0 <= planned / measured <= 1.3)


def matmul_flops_per_second() -> float:
    """Rate of a float32 matrix product of this CPU with one thread, as the learner of the stand-in has."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        matrix = torch.randn(1024, 1024)
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            matrix @ matrix
            seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return float(2 * 1024**3 / min(seconds))


@pytest.mark.gpu(
    "tokens per second of a step, and share of the arithmetic (MFU)",
    f"GPU: >= {MIN_MFU} of the data sheet; CPU: >= {MIN_MFU_CPU} of a matrix product",
)
def test_steps_use_the_arithmetic_of_the_device(
    report: Report, device: str, shaped_model: Path, measure: Measure
) -> None:
    tokens_per_second = measure(4096 if device == "cuda" else TOKENS_CPU, False, 0.0).tokens_per_second
    if device == "cuda":
        gpu = this_machine().gpu
        if gpu is None or gpu.tflops is None:
            pytest.skip(
                f"{tokens_per_second:,.0f} tokens/s; the data sheet of this GPU is not known (plan/machines.py)"
            )
        peak, min_mfu = 1e12 * gpu.tflops, MIN_MFU
    else:
        peak, min_mfu = matmul_flops_per_second(), MIN_MFU_CPU
    mfu = FLOPS_PER_PARAMETER * shape_of(str(shaped_model)).num_parameters * tokens_per_second / peak
    report(f"{tokens_per_second:,.0f} tokens/s, {mfu:.2f} of {peak / 1e12:,.2f} TFLOP/s", passed=mfu >= min_mfu)


@pytest.mark.gpu("share of a step in which the GPU computes", f"> {MIN_BUSY}")
@pytest.mark.needs_gpus(1)
def test_the_gpu_computes_most_of_a_step(report: Report, measure: Measure) -> None:
    busy = measure(4096, False, 0.0).busy
    report(f"{busy:.2f}", passed=busy > MIN_BUSY)
