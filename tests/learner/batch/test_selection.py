from dataclasses import replace
from typing import Any

import pytest

from cluster.errors import LearnerError
from cluster.types import FinishReason, Group
from learner.batch.selection import Selection, fresh_tokens, select
from learner.settings import LearnerSettings
from tests.learner.factories import group, updated_in_flight


def selected(groups: list[Group], *, version: int = 0, max_staleness: int = 0, **settings: Any) -> Selection:
    return select(
        groups,
        settings=LearnerSettings(scale_rewards="none", **settings),
        learner_version=version,
        max_staleness=max_staleness,
        temperature=0.7,
    )


@pytest.mark.parametrize(
    ("max_staleness", "expected"),
    [
        (0, (False, False, False, True)),
        (1, (False, False, True, True)),
        (3, (False, True, True, True)),
        (4, (True, True, True, True)),
    ],
)
def test_a_token_is_fresh_up_to_max_staleness(max_staleness: int, expected: tuple[bool, ...]) -> None:
    assert fresh_tokens((3, 4, 6, 7), learner_version=7, max_staleness=max_staleness) == expected


def test_only_the_stale_tokens_of_a_completion_with_two_policies_are_masked() -> None:
    mixed = updated_in_flight(group([1.0, 0.0]), [1, 2], old=4, new=5)
    selection = selected([mixed], version=5)
    lengths = [len(completion.token_ids) for completion in mixed.completions]
    assert [row.is_fresh for row in selection.rows] == [
        (False,) + (True,) * (lengths[0] - 1),
        (False,) * 2 + (True,) * (lengths[1] - 2),
    ]
    assert selection.stale_share == pytest.approx(3 / sum(lengths))
    assert [row.num_fresh for row in selected([mixed], version=5, max_staleness=1).rows] == lengths


def test_excluded_completions_have_a_reason_and_the_others_an_advantage() -> None:
    each = group([1.0, None, 0.5, 0.0])
    empty = replace(each.completions[2], token_ids=(), sampler_logprobs=())
    each = replace(each, completions=(*each.completions[:2], empty, each.completions[3]))
    selection = selected([each])
    assert {row.completion_id: row.advantage for row in selection.rows} == {"g0-c0": 0.5, "g0-c3": -0.5}
    assert selection.excluded == {"g0-c1": "ungradable", "g0-c2": "empty"}
    assert selection.stale_share == 0.0


def test_a_completion_without_a_fresh_token_is_excluded_but_stays_in_the_baseline() -> None:
    old, new = group([1.0, 0.0]).completions
    old, new = replace(old, policy_version=2), replace(new, policy_version=3)
    mixed = replace(group([1.0, 0.0]), completions=(old, new))
    selection = selected([mixed], version=3)
    assert {row.completion_id: row.advantage for row in selection.rows} == {"g0-c1": -0.5}
    assert selection.excluded == {"g0-c0": "stale"}
    num_tokens = len(old.token_ids) + len(new.token_ids)
    assert selection.stale_share == pytest.approx(len(old.token_ids) / num_tokens)


def test_every_completion_is_either_in_the_loss_or_excluded() -> None:
    groups = [group([1.0, None, 0.5], seed=1), updated_in_flight(group([0.0, 1.0], seed=2), [2, 0], old=0, new=1)]
    selection = selected(groups, version=1)
    ids = [completion.id for each in groups for completion in each.completions]
    assert sorted([*(row.completion_id for row in selection.rows), *selection.excluded]) == sorted(ids)


def test_a_step_without_completions_for_the_loss_is_refused_with_the_reasons() -> None:
    with pytest.raises(LearnerError, match=r"nothing to learn from: .* 2 groups .*\(2 ungradable, 1 stale\)"):
        selected([group([None, None]), group([0.5], seed=1)], version=1)


def test_completions_below_the_threshold_are_excluded_but_stay_in_the_baseline() -> None:
    selection = selected([group([1.0, 0.2, 0.1, 0.3])], reward_threshold=0.2)
    # The mean of 0.4 includes the excluded completion; a reward at the threshold is kept.
    assert {row.completion_id: row.advantage for row in selection.rows} == pytest.approx(
        {"g0-c0": 0.6, "g0-c1": -0.2, "g0-c3": -0.1}
    )
    assert selection.excluded == {"g0-c2": "below_threshold"}


def test_train_top_k_keeps_the_best_with_their_advantage_over_the_whole_group() -> None:
    selection = selected([group([0.1, 0.9, 0.5, 0.5]), group([0.0, 0.4], seed=1)], train_top_k=2)
    assert {row.completion_id: row.advantage for row in selection.rows} == pytest.approx(
        {"g0-c1": 0.4, "g0-c2": 0.0, "g1-c0": -0.2, "g1-c1": 0.2}  # the first of two equal rewards
    )
    assert selection.excluded == {"g0-c0": "not_in_top_k", "g0-c3": "not_in_top_k"}


def test_excluded_completions_do_not_count_for_the_top_k() -> None:
    each = group([1.0, 0.9, 0.5, None])
    stale = replace(each.completions[0], policy_version=0)
    fresh = [replace(one, policy_version=3) for one in each.completions[1:]]
    cut_off = replace(fresh[0], finish_reason=FinishReason.LENGTH)
    each = replace(each, completions=(stale, cut_off, *fresh[1:]))
    selection = selected([each], version=3, train_top_k=1, mask_truncated_completions=True)
    assert {row.completion_id: row.advantage for row in selection.rows} == pytest.approx({"g0-c2": -0.3})
    assert selection.excluded == {"g0-c0": "stale", "g0-c1": "masked_truncated", "g0-c3": "ungradable"}


def test_reward_weight_multiplies_advantages() -> None:
    rows = selected([group([1.0, 0.0])], reward_weight=2.0).rows
    assert [row.advantage for row in rows] == [1.0, -1.0]


def test_settings_may_exclude_every_completion_of_a_step() -> None:
    selection = selected([group([0.1, 0.0])], reward_threshold=0.5)
    assert selection.rows == ()
    assert selection.excluded == {"g0-c0": "below_threshold", "g0-c1": "below_threshold"}
