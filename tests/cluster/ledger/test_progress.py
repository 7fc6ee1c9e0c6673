import pytest

from cluster.ledger.progress import Progress
from cluster.types import Outcome


def test_positions_count_up() -> None:
    progress = Progress()
    assert [progress.start_next(4) for _ in range(3)] == [0, 1, 2]


def test_a_resume_starts_only_unfinished_positions_again() -> None:
    progress = Progress()
    for _ in range(5):
        progress.start_next(4)
    progress.group_dropped(1)
    progress.step_done([0, 3])
    resumed = Progress.from_json(progress.to_json())
    assert [resumed.start_next(4) for _ in range(4)] == [2, 4, 5, 6]
    assert resumed.step == resumed.saved_step == 1


def test_a_second_interruption_loses_no_unfinished_position() -> None:
    progress = Progress()
    for _ in range(4):
        progress.start_next(4)
    progress.step_done([0])
    once = Progress.from_json(progress.to_json())
    assert once.start_next(4) == 1
    twice = Progress.from_json(once.to_json())
    assert [twice.start_next(4) for _ in range(4)] == [1, 2, 3, 4]


def test_an_epoch_counts_dropped_groups_too() -> None:
    progress = Progress()
    for _ in range(4):
        progress.start_next(4)
    progress.step_done([0, 1])
    progress.group_dropped(2)
    assert progress.epoch(problems_per_epoch=6) == 0.5


@pytest.mark.parametrize("num_problems", [1, 7, 2575, 5060, 999_983])
def test_the_number_of_training_problems_follows_from_progress_and_epoch(num_problems: int) -> None:
    for num_groups in (1, 3, 4_001):
        progress = Progress(num_trained=num_groups, num_dropped=num_groups // 3)
        assert progress.problems_per_epoch(progress.epoch(num_problems)) == num_problems


def test_a_stale_position_is_started_again_and_counted_until_it_ends() -> None:
    progress = Progress()
    for _ in range(3):
        progress.start_next(4)
    progress.group_stale(1)
    assert progress.start_next(4) == 1
    assert progress.attempt_of(1) == 2
    assert Progress.from_json(progress.to_json()).attempt_of(1) == 2
    progress.step_done([1, 0])
    assert progress.attempt_of(1) == 1
    assert progress.num_stale == {}


def test_completions_in_flight_at_a_checkpoint_are_requested_again_and_counted_once() -> None:
    progress = Progress()
    for _ in range(3):
        progress.start_next(4)
    progress.count_completions(Outcome.TRAINED, 3)
    progress.count_completions(Outcome.FAILED, 1)
    progress.step_done([0])
    assert (progress.num_asked, progress.num_under_way) == (12, 8)
    resumed = Progress.from_json(progress.to_json())
    assert (resumed.num_asked, resumed.num_under_way) == (4, 0)
    resumed.start_next(4)
    assert resumed.num_under_way == 4
