import random
from collections.abc import Sequence

import pytest

from cluster.analysis.regrade_statistics import PairCounts, Rescored, RewardComparison, compare_rewards, count_pairs
from cluster.types import RewardTerms, Verdict

TERMS = RewardTerms(structural=0.0, type_check=0.0, compile=0.0, tests=0.0)


def rescored(group: str, old: float, new: float, verdict: Verdict = Verdict.WRONG) -> Rescored:
    return Rescored(
        group_id=group,
        completion_id=f"{group}-c",
        verdict=verdict,
        num_code_lines=3,
        old_reward=old,
        new_reward=new,
        old_terms=TERMS,
        new_terms=TERMS,
    )


def comparison_of(*groups: Sequence[tuple[float, float]]) -> RewardComparison:
    return compare_rewards([rescored(f"g{index}", *rewards) for index, group in enumerate(groups) for rewards in group])


@pytest.mark.parametrize(
    ("old", "new", "tau"),
    [
        ([1, 2, 3], [1, 2, 3], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3], [1, 3, 2], 1 / 3),
        ([12, 2, 1, 12, 2], [1, 4, 7, 1, 0], -4 / (8 * 9) ** 0.5),
        ([1, 1, 2, 2], [1, 1, 2, 2], 1.0),
        ([0, 0, 1], [0, 1, 1], 0.5),
        ([1, 1], [1, 2], None),
        ([1, 2], [1, 1], None),
        ([1], [1], None),
    ],
)
def test_tau_b_equals_the_value_by_hand(old: list[float], new: list[float], tau: float | None) -> None:
    assert count_pairs(old, new).tau_b == (None if tau is None else pytest.approx(tau))


def test_each_pair_is_counted_once() -> None:
    # By index: 01, 12 and 13 are discordant, 02 is tied in new, 03 is tied in old, 23 is concordant.
    counted = count_pairs([1, 2, 0, 1], [5, 1, 5, 9])
    assert counted == PairCounts(discordant=3, tied_in_new=1) + PairCounts(concordant=1, tied_in_old=1)
    assert counted.total == 6


def test_a_pair_may_be_tied_under_both() -> None:
    assert count_pairs([1, 1], [0, 0]) == PairCounts(tied_in_both=1)


def test_groups_without_signal_are_counted_under_both_rewards() -> None:
    comparison = comparison_of(
        [(0.1, 0.0), (0.2, 0.0)], [(0.3, 0.0), (0.3, 1.0)], [(0.3, 0.0), (0.3, 0.0)], [(0.5, 0.5)]
    )
    assert (comparison.num_completions, comparison.num_groups) == (7, 4)
    assert (comparison.old_without_signal, comparison.new_without_signal) == (0.75, 0.75)
    assert comparison.old_mean == pytest.approx(2.0 / 7)
    assert comparison.new_mean == pytest.approx(1.5 / 7)
    assert (comparison.mean_tau_b, comparison.num_ranked_groups) == (None, 0)


def test_the_best_completion_changes_where_none_is_best_under_both() -> None:
    comparison = comparison_of([(1.0, 0.5), (0.5, 1.0)], [(1.0, 0.5), (1.0, 0.4)], [(0.2, 0.2), (0.4, 0.3)])
    assert comparison.best_changed_share == pytest.approx(1 / 3)
    assert comparison.pairs.discordant == 1
    assert comparison.mean_tau_b == pytest.approx(0.0)  # of the first and the last group
    assert comparison.largest_change == 0.6


def test_verdicts_have_their_own_means() -> None:
    completions = [
        rescored("a", 0.2, 0.4, Verdict.WRONG),
        rescored("a", 0.4, 0.0, Verdict.WRONG),
        rescored("b", 1.0, 0.9, Verdict.PASSED),
    ]
    by_verdict = [
        (one.verdict, one.num_completions, one.old_mean, one.new_mean)
        for one in compare_rewards(completions).by_verdict
    ]
    assert by_verdict == [
        (Verdict.PASSED, 1, 1.0, 0.9),
        (Verdict.WRONG, 2, pytest.approx(0.3), pytest.approx(0.2)),
    ]


def test_the_order_of_completions_does_not_matter() -> None:
    completions = [rescored(f"g{i % 5}", (i * 7 % 11) / 11, (i * 5 % 13) / 13) for i in range(40)]
    shuffled = random.Random(0).sample(completions, len(completions))
    assert compare_rewards(shuffled).pairs == compare_rewards(completions).pairs
    assert compare_rewards(shuffled).mean_tau_b == pytest.approx(compare_rewards(completions).mean_tau_b)
