import pytest

from learner.training.kl import AdaptiveKl


def after(kl: float, *, num_completions: int = 100, horizon: int = 1000) -> float:
    control = AdaptiveKl(0.1)
    control.observe(kl, target=0.5, num_completions=num_completions, horizon=horizon)
    return control.coefficient


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (0.5, 1.0),  # on target
        (0.55, 1.01),  # a tenth above: 0.1 * 100 / 1000
        (0.45, 0.99),
        (5.0, 1.02),  # the error is clipped to a fifth
        (0.0, 0.98),
    ],
)
def test_the_coefficient_follows_the_error(kl: float, factor: float) -> None:
    assert after(kl) == pytest.approx(0.1 * factor)


def test_a_step_of_more_completions_than_the_horizon_changes_the_coefficient_by_a_fifth_at_most() -> None:
    assert after(5.0, num_completions=10_000, horizon=10) == pytest.approx(0.12)
