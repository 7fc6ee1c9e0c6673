"""Settings that change during a run: refusals of fixed settings, and effects of the changeable ones."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import LearnerError
from cluster.types import FinishReason
from learner.overrides import CHANGEABLE, apply_overrides, check_changeable
from learner.settings import LearnerSettings
from tests.learner.factories import group
from tests.learner.scoring import sampled_by

MakeLearner = Callable[..., Any]
BASE = LearnerSettings(kl_coefficient=0.1)
TARGET = 1e-3  # nats per token, exceeded after a few of these steps

# A value of each key that differs from the learner's value, and the settings under which it has an effect.
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "delta": (1.25, {}),
    "entropy_coef": (0.5, {}),
    "epsilon": (0.05, {}),
    "epsilon_high": (0.3, {}),
    "kl_coefficient": (0.5, {}),
    "kl_horizon": (1, {"kl_target": 0.5, "kl_coefficient": 0.1}),
    "kl_target": (1e-6, {"kl_target": 0.5, "kl_coefficient": 0.1}),
    "learning_rate": (5e-4, {}),
    "mask_truncated_completions": (True, {}),
    "max_grad_norm": (0.01, {"optim": "sgd", "learning_rate": 1.0}),  # AdamW does not see the scale of gradients
    "off_policy_mask_threshold": (0.1, {}),
    "reward_threshold": (0.2, {}),
    "reward_weight": (2.0, {"optim": "sgd", "max_grad_norm": 1000.0}),
    "scale_rewards": ("none", {"optim": "sgd", "max_grad_norm": 1000.0}),
    "stop_at_grad_norm": (1e-9, {}),
    "stop_at_kl": (1e-9, {"kl_coefficient": 0.1}),
    "top_entropy_quantile": (0.2, {}),
    "train_top_k": (1, {}),
    "vllm_importance_sampling_clip_max": (1.1, {"vllm_importance_sampling_correction": True}),
    "vllm_importance_sampling_clip_min": (0.95, {"vllm_importance_sampling_correction": True}),
}


def test_every_changeable_key_is_a_setting_and_is_tested_below() -> None:
    assert set(CHANGEABLE) == CHANGES.keys() <= LearnerSettings.model_fields.keys()
    for key in CHANGEABLE:
        check_changeable(key)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("lora.r", "have one shape"),
        ("num_iterations", "unit of the learning rate schedule"),
        ("warmup_steps", "optimizer and its schedule are built with it"),
        ("dtype", "process is started with it"),
        ("tempo", "there is no such setting"),
    ],
)
def test_fixed_keys_are_refused_with_the_reason(key: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"learner.{key} cannot change .*{reason}"):
        check_changeable(key)
    with pytest.raises(LearnerError, match="cannot change") as caught:
        apply_overrides(BASE, {key: 1})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": -1.0}, "learner.learning_rate=-1.0: Input should be greater than 0"),
        ({"delta": 1.1}, "delta=1.1: must be above 1 [+] epsilon_high"),
        ({"kl_target": 0.5, "kl_coefficient": 0.2}, "while learner.kl_target adapts it"),
        ({"kl_target": 20.0}, "stop_at_kl=10.0: must be above"),
    ],
)
def test_invalid_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LearnerError, match=message) as caught:
        apply_overrides(BASE, changes)
    assert "\n" not in str(caught.value)


def test_overrides_do_not_change_the_settings_of_the_run() -> None:
    assert apply_overrides(BASE, {}) is BASE
    assert apply_overrides(BASE, {"reward_weight": 2.0}).reward_weight == 2.0
    assert BASE.reward_weight == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("key", CHANGES)
def test_a_step_with_an_override_equals_the_step_of_a_run_with_that_setting(
    key: str, model_folder: Path, make_learner: MakeLearner, tmp_path: Path
) -> None:
    """The third step with an override differs from the step without it and equals that step of a resumed run with the setting."""
    value, options = CHANGES[key]
    options = {"learning_rate": 1e-3, **options}

    def batch(seed: int) -> list[Any]:
        groups = [
            sampled_by(model_folder, group([1.0, 0.0, 0.5, 0.1], seed=2 * seed + n), shift=s)
            for n, s in enumerate((-0.3, 0.25))
        ]
        first = groups[0].completions[0]
        cut_off = replace(first, finish_reason=FinishReason.LENGTH)
        return [replace(groups[0], completions=(cut_off, *groups[0].completions[1:])), groups[1]]

    def third_steps(name: str, changes: dict[str, Any], **start: Any) -> Any:
        learner = make_learner(checkpoints=name, **{**options, **start})
        try:
            learner.step(batch(2), changes)
            policy, report = learner.step(batch(3), changes)
        except LearnerError as error:
            return str(error).partition(". Its batch")[0]
        finally:
            learner.close()
        return policy.adapter, report.metrics["loss"], report.advantages, report.excluded

    learner = make_learner(checkpoints="plain", **options)
    for seed in range(2):
        learner.step(batch(seed))
    learner.save_checkpoint()
    learner.close()
    for name in ("phased", "other"):
        shutil.copytree(tmp_path / "plain", tmp_path / name)
    plain, phased = third_steps("plain", {}), third_steps("phased", {key: value})
    assert phased != plain
    assert phased == third_steps("other", {}, **{key: value})


@pytest.mark.slow
def test_a_new_learning_rate_is_a_new_peak_of_the_same_schedule(make_learner: MakeLearner) -> None:
    learner = make_learner(max_steps=4, lr_scheduler_type="linear", learning_rate=1e-3)
    changes: list[dict[str, Any]] = [{}, {"learning_rate": 4e-3}, {"learning_rate": 4e-3}, {}]
    rates = [learner.step([group([1.0, 0.0])], change)[1].metrics["learning_rate"] for change in changes]
    assert rates == pytest.approx([1e-3, 3e-3, 2e-3, 0.25e-3])


@pytest.mark.slow
def test_a_step_without_completions_in_the_loss_changes_nothing_and_counts(make_learner: MakeLearner) -> None:
    learner = make_learner(reward_threshold=0.5)
    first, _ = learner.step([group([1.0, 0.9])])
    second, report = learner.step([group([0.1, 0.2])])
    assert (second.number, report.metrics["num_completions"]) == (2, 0.0)
    assert second.adapter == first.adapter


@pytest.mark.slow
def test_an_adaptive_coefficient_follows_the_divergence_and_is_resumed_exactly(
    model_folder: Path, make_learner: MakeLearner
) -> None:
    options: dict[str, Any] = {"kl_coefficient": 0.1, "kl_target": TARGET, "kl_horizon": 20, "learning_rate": 3e-3}
    steps = [[sampled_by(model_folder, group([1.0, 0.0, 0.3, 0.2], seed=seed))] for seed in range(6)]
    undisturbed = make_learner(checkpoints="one", **options)
    reports = [undisturbed.step(each)[1].metrics for each in steps]
    coefficients = [each["kl_coefficient"] for each in reports]
    expected = 0.1
    for coefficient, metrics in zip(coefficients, reports, strict=True):
        assert coefficient == pytest.approx(expected)
        expected *= 1 + min(max(metrics["kl"] / TARGET - 1, -0.2), 0.2) * 4 / 20
    assert coefficients[1] < 0.1  # nothing has diverged in the first step
    assert coefficients[5] > coefficients[1]

    # Adaptive for two steps, fixed by overrides for two steps around the checkpoint, and adaptive again.
    changes: list[dict[str, Any]] = [{}, {}, {"kl_target": None}, {"kl_target": None}, {}, {}]
    whole = make_learner(checkpoints="two", **options)
    expected_last = [whole.step(each, change) for each, change in zip(steps, changes, strict=True)][-1]
    first = make_learner(checkpoints="three", **options)
    for each, change in zip(steps[:3], changes, strict=False):
        first.step(each, change)
    first.save_checkpoint()
    first.close()
    second = make_learner(checkpoints="three", **options)
    reached = [second.step(each, change) for each, change in zip(steps[3:], changes[3:], strict=True)][-1]
    assert reached[1].metrics["kl_coefficient"] == expected_last[1].metrics["kl_coefficient"]
    assert reached[0].adapter == expected_last[0].adapter
