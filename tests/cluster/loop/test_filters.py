from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.loop.filters import GroupFilter
from cluster.types import FinishReason, Group
from tests.cluster.records import group

REWARDS = st.none() | st.sampled_from([0.0, 0.2, 0.5, 1.0])


def with_truncated(complete: Group, indexes: set[int]) -> Group:
    """Return the group with these completions truncated at the length limit."""
    return replace(
        complete,
        completions=tuple(
            replace(completion, finish_reason=FinishReason.LENGTH) if completion.index in indexes else completion
            for completion in complete.completions
        ),
    )


@pytest.mark.parametrize(
    ("group_filter", "complete", "reason"),
    [
        (GroupFilter(), group([0.0, 0.0]), None),
        (GroupFilter(drop_without_signal=True), group([0.5, 0.5]), "no_signal"),
        (GroupFilter(drop_without_signal=True), group([0.5, 0.6]), None),
        (GroupFilter(min_mean_reward=0.3), group([0.1, 0.4]), "too_hard"),
        (GroupFilter(min_mean_reward=0.25), group([0.1, 0.4]), None),
        (GroupFilter(max_mean_reward=0.9), group([1.0, 0.9]), "too_easy"),
        (GroupFilter(max_mean_reward=0.95), group([1.0, 0.9, None]), None),
        (GroupFilter(max_truncated_share=0.5), with_truncated(group([0.0, 1.0, 0.0, 1.0]), {0, 1}), None),
        (GroupFilter(max_truncated_share=0.5), with_truncated(group([0.0, 1.0, 0.0, 1.0]), {0, 1, 2}), "truncated"),
        (GroupFilter(min_mean_reward=0.5), group([None, None]), None),
    ],
)
def test_a_group_is_dropped_for_the_first_bound_that_it_breaks(
    group_filter: GroupFilter, complete: Group, reason: str | None
) -> None:
    assert group_filter.reason(complete) == reason


@given(
    st.lists(REWARDS, min_size=2, max_size=6),
    st.sets(st.integers(0, 5)),
    st.integers(0, 6),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([(0.0, 1.0), (0.3, 0.8), (0.0, 0.4), (0.6, 1.0)]),
)
def test_a_group_that_is_stopped_early_would_have_been_dropped_when_complete(
    rewards: list[float | None], truncated: set[int], num_ended: int, share: float, bounds: tuple[float, float]
) -> None:
    group_filter = GroupFilter(max_truncated_share=share, min_mean_reward=bounds[0], max_mean_reward=bounds[1])
    complete = with_truncated(group(rewards), truncated)
    partial = replace(complete, completions=complete.completions[:num_ended], grades=complete.grades[:num_ended])
    if group_filter.early_reason(partial, len(rewards)) and complete.rewards:
        assert group_filter.reason(complete) is not None
