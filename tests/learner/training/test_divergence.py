"""Steps that diverge are not taken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from learner.training.divergence import Diverged
from tests.learner.factories import group

pytestmark = pytest.mark.slow
MakeLearner = Callable[..., Any]


@pytest.mark.parametrize(
    ("settings", "logprob", "message"),
    [
        ({}, float("nan"), "step 2 diverged: loss nan"),
        (
            {"stop_at_grad_norm": 1e-6},
            -4.5,
            r"step 2 diverged: gradient norm .*, above learner.stop_at_grad_norm=1e-06",
        ),
        (
            {"stop_at_kl": 1e-7, "kl_coefficient": 0.1},
            -4.5,
            "step 2 diverged: KL divergence .*learner.stop_at_kl=1e-07",
        ),
    ],
)
def test_divergence_stops_with_step_and_cause_and_the_checkpoint_is_unchanged(
    settings: dict[str, Any], logprob: float, message: str, make_learner: MakeLearner
) -> None:
    learner = make_learner(**{**settings, "stop_at_grad_norm": None, "stop_at_kl": None})
    policy, _ = learner.step([group([1.0, 0.0])])
    checkpoint = Path(learner.save_checkpoint())
    files = {path.name: path.read_bytes() for path in checkpoint.iterdir()}
    bounds = {key: value for key, value in settings.items() if key.startswith("stop_at")}
    with pytest.raises(Diverged, match=message) as caught:
        learner.step([group([1.0, None, 0.0], seed=1, logprob=logprob)], bounds)
    assert "checkpoints are intact; resume from the last one with a lower learner.learning_rate" in str(caught.value)
    assert "\n" not in str(caught.value)

    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == files
    learner.close()
    resumed = make_learner(**{**settings, "stop_at_grad_norm": None, "stop_at_kl": None})
    assert resumed._training.run(resumed._policy).adapter == policy.adapter


def test_the_gradient_norm_is_checked_before_clipping(make_learner: MakeLearner) -> None:
    free = make_learner(max_grad_norm=1e-3, stop_at_grad_norm=None)
    norm = free.step([group([1.0, 0.0])])[1].metrics["grad_norm"]
    assert norm > 1e-2
    with pytest.raises(Diverged, match="gradient norm"):
        make_learner(checkpoints="other", max_grad_norm=1e-3, stop_at_grad_norm=norm / 2).step([group([1.0, 0.0])])
