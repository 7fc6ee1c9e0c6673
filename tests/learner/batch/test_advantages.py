import pytest

from learner.batch.advantages import group_advantages


def test_advantages_are_rewards_minus_the_group_mean_divided_by_its_deviation() -> None:
    # mean 0.5; sample deviation sqrt((0.25 + 0.25) / 1) = 0.70711
    assert group_advantages([[1.0, 0.0]], scale="group") == [
        [pytest.approx(0.5 / 0.70721, rel=1e-4), pytest.approx(-0.5 / 0.70721, rel=1e-4)]
    ]


def test_without_scaling_only_the_mean_is_subtracted() -> None:
    assert group_advantages([[1.0, 0.0, 0.5, 0.5], [0.2, 0.4]], scale="none") == [
        [0.5, -0.5, 0.0, 0.0],
        [pytest.approx(-0.1), pytest.approx(0.1)],
    ]


def test_scaling_by_the_step_uses_the_deviation_of_all_its_rewards() -> None:
    # rewards 1, 0, 1, 1: mean 0.75, squares 0.0625 * 3 + 0.5625 = 0.75, over 3 is 0.25, deviation 0.5
    assert group_advantages([[1.0, 0.0], [1.0, 1.0]], scale="batch") == [
        [pytest.approx(0.5 / 0.5001), pytest.approx(-0.5 / 0.5001)],
        [0.0, 0.0],
    ]


def test_ungradable_completions_have_no_advantage_and_are_not_in_the_baseline() -> None:
    assert group_advantages([[1.0, None, 0.5, None]], scale="none") == [[0.25, 0.0, -0.25, 0.0]]


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("rewards", [[0.3, 0.3, 0.3], [0.7], [None, 0.7], [None, None], []])
def test_a_group_with_one_reward_has_no_advantage(rewards: list[float | None], scale: str) -> None:
    assert group_advantages([rewards], scale=scale) == [[0.0] * len(rewards)]  # type: ignore[arg-type]


def test_groups_may_differ_in_size() -> None:
    sizes = [len(values) for values in group_advantages([[1.0, 0.0], [1.0, 0.0, 0.0, None]], scale="group")]
    assert sizes == [2, 4]
