"""GPU acceptance suite: learner ranks and sharded weights on two GPUs; on the CPU, two processes with gloo."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.conftest import Report
from tests.gpu.random_models import QWEN_7B, make_qwen
from tests.gpu.test_learner import SGD, batches
from tests.learner.rank_group import RankProcesses, rank_processes
from tests.learner.test_ranks import furthest_apart, num_local_weights

pytestmark = pytest.mark.slow
MakeLearner = Callable[..., Any]

NUM_GPUS = 2
IN_PARTS = 60  # learner.micro_batch_tokens
MAX_DIFFERENCE = 1e-4
MAX_LOCAL_SHARE = 0.6  # share of the layers' weights on one of two ranks


@pytest.fixture(autouse=True)
def skip_with_one_gpu(num_gpus: int) -> None:
    if num_gpus == 1:
        pytest.skip(f"waits for {NUM_GPUS} GPUs in one machine")


@pytest.fixture(scope="module")
def two_ranks(model_folder: Path, device: str) -> Iterator[RankProcesses]:
    with rank_processes(model_folder, NUM_GPUS, uses_gpus=device == "cuda") as processes:
        yield processes


@pytest.mark.long
@pytest.mark.gpu("two SGD steps of two ranks against one", f"no weight of the adapter differs by {MAX_DIFFERENCE:g}")
@pytest.mark.parametrize("shard_base", [False, True], ids=["whole", "shard_base"])
def test_two_ranks_take_the_same_steps_as_one_rank(
    shard_base: bool,
    report: Report,
    gpus: float,
    two_ranks: RankProcesses,
    model_folder: Path,
    make_learner: MakeLearner,
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {**SGD, "dtype": "float32", "micro_batch_tokens": IN_PARTS, "gpus": gpus}
    alone = make_learner(**options)
    two_ranks.begin(tmp_path / "two", shard_base=shard_base, **options)
    steps = batches(model_folder)
    policies = [(alone.step(groups)[0], two_ranks.step(groups)[0]) for groups in steps]
    moved = furthest_apart(policies[0][0], policies[1][0])
    difference = max(furthest_apart(one, two) for one, two in policies)
    held = two_ranks(num_local_weights)
    share = max(own / total for own, total in held)
    report(
        f"{difference:.1e}, between the steps {moved:.1e}; {share:.2f} of the layers' weights per rank",
        passed=difference < MAX_DIFFERENCE < moved and (share < MAX_LOCAL_SHARE) == shard_base,
    )


@pytest.mark.long
@pytest.mark.gpu(
    "shard_base with the shape of Qwen2.5 7B", f"a step; < {MAX_LOCAL_SHARE} of the layers' weights per rank"
)
@pytest.mark.needs_gpus(2)
def test_a_sharded_7b_takes_a_step(report: Report, tmp_path: Path) -> None:
    from benchmarks.learner_contestants import make_groups

    folder = make_qwen(tmp_path / "model", QWEN_7B, "cuda")
    options: dict[str, Any] = {
        "shard_base": True,
        "gradient_checkpointing": True,
        "gpus": 1.0,
        "micro_batch_tokens": 2048,
    }
    with rank_processes(folder, NUM_GPUS, uses_gpus=True) as ranks:
        ranks.begin(tmp_path / "checkpoints", **options)
        policy, learned = ranks.step(make_groups(num_groups=2, group_size=4, vocabulary=1000, uneven=True))
        share = max(own / total for own, total in ranks(num_local_weights))
    report(
        f"gradient norm {learned.metrics['grad_norm']:.2g}, {share:.2f} of the weights per rank",
        passed=policy.number == 1 and learned.metrics["grad_norm"] > 0 and share < MAX_LOCAL_SHARE,
    )
