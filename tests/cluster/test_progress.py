from cluster.progress import Progress


def test_positions_count_up() -> None:
    progress = Progress()
    assert [progress.start_next() for _ in range(3)] == [0, 1, 2]


def test_what_was_under_way_is_started_again_after_a_resume_and_nothing_else() -> None:
    progress = Progress()
    for _ in range(5):
        progress.start_next()
    progress.dropped(1)
    progress.step_done([0, 3])
    resumed = Progress.from_json(progress.to_json())
    assert [resumed.start_next() for _ in range(4)] == [2, 4, 5, 6]
    assert resumed.step == resumed.saved_step == 1


def test_an_interruption_before_the_leftovers_were_started_again_loses_none_of_them() -> None:
    progress = Progress()
    for _ in range(4):
        progress.start_next()
    progress.step_done([0])
    once = Progress.from_json(progress.to_json())
    assert once.start_next() == 1
    twice = Progress.from_json(once.to_json())
    assert [twice.start_next() for _ in range(4)] == [1, 2, 3, 4]


def test_an_epoch_counts_dropped_groups_too() -> None:
    progress = Progress()
    for _ in range(4):
        progress.start_next()
    progress.step_done([0, 1])
    progress.dropped(2)
    assert progress.epoch(problems_per_epoch=6) == 0.5
