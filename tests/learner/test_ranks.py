"""Steps of several ranks compared with those of one: real TRL on two processes with gloo."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load

from cluster.types import Group, PolicyVersion
from learner.training.divergence import Diverged
from tests.learner.factories import group
from tests.learner.rank_group import LOCALHOST, RankProcesses, rank_processes

pytestmark = pytest.mark.slow
MakeLearner = Callable[..., Any]

UNEVEN = [group([1.0, 0.0, 0.5, 0.25, 0.0], seed=seed) for seed in range(3)]
STEPS: list[Sequence[Group]] = [
    UNEVEN,
    [group([1.0, 0.0], seed=7)],
    [group([0.0, 0.3, 1.0], seed=8), group([0.5, None, 0.0, 0.1], seed=9, prompt_length=40)],
]


def test_ranks_use_the_network_interface_of_their_address() -> None:
    from learner.training.process_group import interface_of

    assert interface_of(LOCALHOST) == "lo"
    assert interface_of("203.0.113.77") is None  # reserved for documentation


@pytest.fixture(scope="module")
def two_ranks(model_folder: Path) -> Iterator[RankProcesses]:
    with rank_processes(model_folder, 2) as processes:
        yield processes


def random_state(worker: Any) -> bytes:
    state: bytes = worker._training.run(worker._trainer.random_state)
    return state


def furthest_apart(one: PolicyVersion, other: PolicyVersion) -> float:
    left, right = (load(policy.adapter["adapter_model.safetensors"]) for policy in (one, other))
    largest: float = max((left[name] - right[name]).abs().max().item() for name in left)
    return largest


def assert_same(one: Any, other: Any, *, within: float) -> None:
    """Assert that two steps agree in policy and metrics, except in durations and the split into micro-batches."""
    (policy, report), (other_policy, other_report) = one, other
    assert policy.number == other_policy.number
    assert furthest_apart(policy, other_policy) < within
    assert report.advantages == other_report.advantages
    assert report.excluded == other_report.excluded
    differs = {"seconds", "num_micro_batches", "padding_share", "train_runtime"}
    assert report.metrics.keys() == other_report.metrics.keys() | {"rank_idle_share"}
    for name in other_report.metrics.keys() - differs:
        assert report.metrics[name] == pytest.approx(other_report.metrics[name], rel=1e-3, abs=2e-5), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"micro_batch_tokens": 40},
        {"loss_type": "grpo", "micro_batch_tokens": 40},
        {"loss_type": "bnpo", "micro_batch_tokens": 40, "entropy_coef": 0.1},
        {"num_iterations": 2, "micro_batch_tokens": 60},
        {"top_entropy_quantile": 0.4, "micro_batch_tokens": 60},
        {"kl_coefficient": 0.1, "kl_target": 0.001, "kl_horizon": 20, "stop_at_kl": 50.0, "micro_batch_tokens": 60},
        {"vllm_importance_sampling_correction": True, "importance_sampling_level": "sequence"},
        {"shard_base": True, "micro_batch_tokens": 60},
        {
            "shard_base": True,
            "micro_batch_tokens": 60,
            "kl_coefficient": 0.1,
            "top_entropy_quantile": 0.4,
            "vllm_importance_sampling_correction": True,
            "num_iterations": 2,
        },
        {"shard_base": True, "gradient_checkpointing": True, "micro_batch_tokens": 60},
    ],
    ids=str,
)
def test_two_ranks_take_the_same_steps_as_one(
    options: dict[str, Any], two_ranks: RankProcesses, make_learner: MakeLearner, tmp_path: Path
) -> None:
    # AdamW turns the rounding error of a gradient near 0 into a whole step; SGD shows the gradient itself.
    options = {"optim": "sgd", "learning_rate": 1.0, **options}
    alone = make_learner(**{name: value for name, value in options.items() if name != "shard_base"})
    two_ranks.begin(tmp_path / "two", **options)
    moved = None
    for groups in STEPS:
        one, two = alone.step(groups), two_ranks.step(groups)
        assert_same(two, one, within=1e-5)
        assert two[1].metrics["num_micro_batches"] > 2 or groups != UNEVEN or "micro_batch_tokens" not in options
        assert moved is None or furthest_apart(one[0], moved) > 1e-3  # so that a step can be distinguished from none
        moved = one[0]


def test_two_ranks_train_all_weights_like_one(
    two_ranks: RankProcesses, make_learner: MakeLearner, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "method": "full",
        "lora": {},
        "optim": "sgd",
        "learning_rate": 1e-2,
        "kl_coefficient": 0.1,
    }
    options["micro_batch_tokens"] = 60
    alone = make_learner(**options)
    two_ranks.begin(tmp_path / "two", **options)
    for groups in STEPS[:2]:
        one = alone.step(groups)
        two, other = two_ranks("step", groups, {})
        assert not other[0].adapter  # rank 0 publishes
        left, right = (load(policy.adapter["model.safetensors"]) for policy, _ in (one, two))
        assert max((left[name] - right[name]).abs().max().item() for name in left) < 1e-5
        assert two[1].metrics["kl"] == pytest.approx(one[1].metrics["kl"], rel=1e-3, abs=1e-6)
    two_ranks("save_checkpoint")
    expected = two_ranks("step", STEPS[2], {})[0][0]
    two_ranks.begin(tmp_path / "two", **options)
    assert two_ranks("step", STEPS[2], {})[0][0] == expected


def num_local_weights(worker: Any) -> tuple[int, int]:
    """Return the sizes of the decoder layers on this rank and in total."""
    from torch.distributed.tensor import DTensor

    frozen = [
        parameter
        for name, parameter in worker._trainer.model.named_parameters()
        if ".layers." in name and not parameter.requires_grad
    ]
    local = [each.to_local() if isinstance(each, DTensor) else each for each in frozen]
    return sum(each.numel() for each in local), sum(each.numel() for each in frozen)


def test_a_sharded_base_is_stored_in_halves_and_scores_and_saves_like_a_whole_base(
    two_ranks: RankProcesses, make_learner: MakeLearner, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"micro_batch_tokens": 60, "dropout": 0.3}
    two_ranks.begin(tmp_path / "two", shard_base=True, probe_ids=((5, 40, 7),), **options)
    (first, of_all), (second, _) = two_ranks(num_local_weights)
    assert first + second == of_all
    assert 0.4 < first / of_all < 0.6
    two_ranks.step(STEPS[0])
    two_ranks("save_checkpoint")
    expected = two_ranks.step(STEPS[1])
    assert expected[0].probes

    two_ranks.begin(tmp_path / "two", shard_base=True, probe_ids=((5, 40, 7),), **options)
    assert two_ranks.step(STEPS[1])[0] == expected[0]
    whole = make_learner(checkpoints="two", planned={"probe_ids": ((5, 40, 7),)}, **options)
    policy = whole._training.run(whole._policy)
    assert policy.number == 1
    two_ranks.begin(tmp_path / "two", shard_base=True, probe_ids=((5, 40, 7),), **options)
    sharded = two_ranks(current_policy)[0]
    assert policy.adapter == sharded.adapter
    assert policy.probes[0].logprobs == pytest.approx(sharded.probes[0].logprobs, abs=1e-5)


def current_policy(worker: Any) -> PolicyVersion:
    policy: PolicyVersion = worker._training.run(worker._policy)
    return policy


def test_two_ranks_take_steps_with_one_or_no_micro_batch(
    two_ranks: RankProcesses, make_learner: MakeLearner, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"optim": "sgd", "learning_rate": 1.0, "train_top_k": 1}
    alone = make_learner(**options)
    two_ranks.begin(tmp_path / "two", **options)
    single, nothing = [group([1.0, 0.0])], {"reward_threshold": 2.0}
    for groups, active_overrides in [
        (single, {}),
        (single, nothing),
        (UNEVEN, {}),
        (single, {"top_entropy_quantile": 0.5}),
    ]:
        one, two = alone.step(groups, active_overrides), two_ranks.step(groups, active_overrides)
        assert two[1].metrics["num_micro_batches"] == (0 if active_overrides == nothing else 1)
        assert_same(two, one, within=2e-6)


def test_ranks_draw_different_dropout_and_a_resumed_run_reaches_the_same_adapter_bit_for_bit(
    two_ranks: RankProcesses, make_learner: MakeLearner, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"dropout": 0.3, "lr_scheduler_type": "cosine", "warmup_steps": 2, "max_steps": 6}
    options["micro_batch_tokens"] = 40  # so that both ranks have micro-batches
    assert two_ranks.begin(tmp_path / "one", **options) == [None, None]
    first, second = two_ranks("step", STEPS[0], {}) and two_ranks(random_state)
    assert first != second
    two_ranks.begin(tmp_path / "one", **options)
    expected = [two_ranks.step(groups) for groups in STEPS]

    two_ranks.begin(tmp_path / "two", **options)
    two_ranks.step(STEPS[0])
    folder, nothing = two_ranks("save_checkpoint")
    assert nothing is None
    assert Path(folder) == tmp_path / "two" / "checkpoint-1"
    two_ranks.step(STEPS[1])  # lost, because it follows the checkpoint
    assert two_ranks.begin(tmp_path / "two", **options) == [expected[0][0]] * 2
    resumed = [two_ranks.step(groups) for groups in STEPS[1:]]
    assert [policy for policy, _ in resumed] == [policy for policy, _ in expected[1:]]

    # One rank resumes a checkpoint of two. Two ranks resume a checkpoint of one, the second with a new random state.
    options = {key: value for key, value in options.items() if key != "max_steps"}
    alone = make_learner(checkpoints="two", max_steps=6, **options)
    assert alone.step(STEPS[1])[0].number == 2
    alone.save_checkpoint()
    assert not (tmp_path / "two" / "checkpoint-2" / "rng_state_1.pth").exists()
    after: list[PolicyVersion] = []
    for _ in range(2):
        assert [policy.number for policy in two_ranks.begin(tmp_path / "two", max_steps=6, **options)] == [2, 2]
        after.append(two_ranks.step(STEPS[2])[0])
    assert after[0] == after[1]


def test_a_step_that_diverges_is_refused_by_every_rank(two_ranks: RankProcesses, tmp_path: Path) -> None:
    two_ranks.begin(tmp_path / "checkpoints", micro_batch_tokens=30)
    # The rank that does not compute the bad row must not take the step either.
    errors = two_ranks("step", [UNEVEN[0], group([1.0, 0.0], seed=5, logprob=float("nan"))], {})
    assert [type(error) for error in errors] == [Diverged] * 2
    assert all(str(error).startswith("step 1 diverged: loss nan") for error in errors)


def test_ranks_with_different_adapters_stop(two_ranks: RankProcesses, tmp_path: Path) -> None:
    two_ranks.begin(tmp_path / "checkpoints")
    errors = two_ranks.each("step", [(UNEVEN, {"learning_rate": rate}) for rate in (1e-2, 1.1e-2)])
    assert all("ranks computed different adapters (after steps 1, 1)" in str(error) for error in errors), errors

    two_ranks.begin(tmp_path / "checkpoints")
    two_ranks.step(STEPS[0])
    two_ranks("save_checkpoint")
    errors = two_ranks.begin(tmp_path / "checkpoints", tmp_path / "somewhere else")
    assert all("ranks started with different adapters (after steps 1, 0)" in str(error) for error in errors), errors
    assert "the same model on all their machines" in str(errors[0])
    assert "\n" not in str(errors[0])
