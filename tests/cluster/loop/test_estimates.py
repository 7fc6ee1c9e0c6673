"""pass@k, confidence intervals and the sign-flip test."""

import itertools
import random
import statistics

import pytest

from cluster.loop.estimates import RESAMPLES, interval, interval_of_shares, pass_at_k, sign_flip_p


@pytest.mark.parametrize(("num", "passed"), [(4, 0), (4, 1), (6, 3), (5, 5)])
def test_pass_at_k_is_the_share_of_choices_in_which_one_passes(num: int, passed: int) -> None:
    outcomes = [index < passed for index in range(num)]
    for k in range(1, num + 1):
        choices = [any(choice) for choice in itertools.combinations(outcomes, k)]
        assert pass_at_k(num, passed, k) == pytest.approx(statistics.fmean(choices))


def test_pass_at_k_needs_k_completions() -> None:
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 2, 5)


def test_an_interval_covers_the_true_mean_in_about_95_percent_of_samples() -> None:
    draw = random.Random(1)
    hits = 0
    for _ in range(200):
        low, high = interval([draw.gauss(0.4, 0.2) for _ in range(40)])
        hits += low <= 0.4 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_an_interval_of_equal_values_is_a_point() -> None:
    assert interval([0.25] * 7) == (0.25, 0.25)


def test_shares_that_are_all_0_or_all_1_have_an_interval_of_nonzero_width() -> None:
    low, high = interval_of_shares([0.0] * 40)
    assert low == 0 and (1 - high) ** 40 == pytest.approx(0.025)
    assert interval_of_shares([1.0] * 40) == pytest.approx((1 - high, 1.0))
    assert interval_of_shares([0.0, 1.0] * 20) == interval([0.0, 1.0] * 20)


def test_a_difference_in_every_pair_is_significant_and_no_difference_is_not() -> None:
    assert sign_flip_p([0.1] * 30) == pytest.approx(1 / (RESAMPLES + 1))
    assert sign_flip_p([0.0] * 30) == 1.0
    assert sign_flip_p([0.3, -0.3] * 10) == 1.0


def test_the_sign_flip_test_agrees_with_the_exact_p_value() -> None:
    differences = [0.5, 0.2, 0.1, -0.05]
    sums = [
        sum(a * b for a, b in zip(signs, differences, strict=True)) for signs in itertools.product((1, -1), repeat=4)
    ]
    exact = statistics.fmean(abs(one) >= abs(sum(differences)) - 1e-12 for one in sums)
    assert sign_flip_p(differences) == pytest.approx(exact, abs=0.02)
