"""When the number of graders changes, and who gets which job, by a clock that the test turns."""

import asyncio
import itertools
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import ConfigError, UngradableError
from cluster.types import Bounds, Usage
from grader.dispatcher import JOBS_PER_MEMBER, Roster
from grader.scaling import Load, Pace, Window, decide
from grader.settings import GraderSettings

PACE = Pace()
BOUNDS = Bounds(minimum=2, maximum=16)


def load(**changes: object) -> Load:
    steady: dict[str, Any] = {
        "num_graders": 8,
        "num_wanted": 8,
        "wait_seconds": 0.0,
        "steady_seconds": 1000.0,
        "busy_share": 0.5,
        "longest_wait_seconds": 0.0,
    }
    return Load(**{**steady, **changes})


def number(**changes: object) -> int:
    return decide(load(**changes), BOUNDS, PACE)[0]


def test_a_job_that_waits_long_brings_half_as_many_again_up_to_the_ceiling() -> None:
    assert number(wait_seconds=PACE.wait_seconds) == 12
    assert number(wait_seconds=PACE.wait_seconds - 0.1) == 8
    assert number(num_graders=12, num_wanted=12, wait_seconds=60.0) == 16
    assert number(num_graders=16, num_wanted=16, wait_seconds=60.0) == 16
    assert decide(load(wait_seconds=2.5), BOUNDS, PACE)[1] == "a completion has waited 2.5 s"


def test_the_pool_does_not_grow_again_before_it_has_settled() -> None:
    assert number(wait_seconds=60.0, steady_seconds=PACE.settle_seconds - 1) == 8
    # ... nor while graders that are wanted already have no place.
    assert number(wait_seconds=60.0, num_wanted=10) == 10


def test_idle_graders_go_but_by_no_more_than_half_and_not_below_the_floor() -> None:
    assert number(busy_share=0.29) == 4
    assert number(busy_share=0.0) == 4
    assert number(num_graders=3, num_wanted=3, busy_share=0.0) == 2
    assert number(num_graders=2, num_wanted=2, busy_share=0.0) == 2
    # Those that found no place are no longer wanted either.
    assert number(num_wanted=16, busy_share=0.0) == 4


def test_graders_that_idle_most_of_the_time_stay_where_jobs_waited_now_and_then() -> None:
    assert number(busy_share=0.05, longest_wait_seconds=PACE.wait_seconds / 2) == 8
    assert number(busy_share=None) == 8
    assert number(busy_share=PACE.idle_share) == 8


def test_what_shrinking_leads_to_is_not_idle_again() -> None:
    for num in range(3, 200):
        for share in (0.01, 0.1, 0.2, 0.29):
            fewer = decide(
                load(num_graders=num, num_wanted=num, busy_share=share), Bounds(minimum=1, maximum=200), PACE
            )[0]
            assert fewer >= num / 2
            assert num * share / fewer <= PACE.target_share + 1e-9


def usage(num_replicas: int, busy_seconds: float, capacity_seconds: float) -> Usage:
    return Usage(
        num_replicas=num_replicas,
        busy_seconds=busy_seconds,
        num_running=0,
        num_waiting=0,
        capacity_seconds=capacity_seconds,
    )


def test_the_window_tells_a_busy_share_once_it_is_full_of_one_and_the_same_number() -> None:
    window = Window(10.0)
    for second in range(10):
        window.add(float(second), usage(4, busy_seconds=2.0 * second, capacity_seconds=4.0 * second), 0.5)
        assert window.load(4).busy_share is None
    window.add(10.0, usage(4, 20.0, 40.0), 0.0)
    told = window.load(5)
    assert (told.busy_share, told.num_graders, told.num_wanted, told.steady_seconds) == (0.5, 4, 5, 10.0)
    assert (told.wait_seconds, told.longest_wait_seconds) == (0.0, 0.5)
    window.add(11.0, usage(5, 20.0, 44.0), 0.0)  # one more: it has to fill up again
    assert (window.load(5).busy_share, window.load(5).steady_seconds) == (None, 0.0)
    for second in range(12, 40):
        window.add(float(second), usage(5, 20.0, 44.0 + 5.0 * (second - 11)), 0.0)
    told = window.load(5)
    assert (told.busy_share, told.longest_wait_seconds, told.steady_seconds) == (0.0, 0.0, 28.0)


def simulated(arrivals_per_second: dict[int, int], seconds: int) -> list[int]:
    """The number of graders in every second, each of which ends one job a second."""
    window, num, queue = Window(PACE.window_seconds), 2, list[int]()
    busy = capacity = 0.0
    numbers, rate = [], 0
    for now in range(seconds):
        rate = arrivals_per_second.get(now, rate)
        queue += [now] * rate
        done = min(num, len(queue))
        queue = queue[done:]
        busy, capacity = busy + done, capacity + num
        window.add(float(now), usage(num, busy, capacity), float(now - queue[0]) if queue else 0.0)
        num, _ = decide(window.load(num), BOUNDS, PACE)
        numbers.append(num)
    return numbers


def test_the_number_follows_the_load_up_and_down_without_going_to_and_fro() -> None:
    numbers = simulated({0: 1, 100: 10, 1000: 1, 3000: 0}, 5000)
    assert set(numbers[:100]) == {2}
    assert 10 <= numbers[400] <= 16
    assert len(set(numbers[400:1000])) == 1
    assert numbers[2900] in (2, 3) and numbers[4999] == 2
    changes = [(before, after) for before, after in itertools.pairwise(numbers) if before != after]
    directions = [after > before for before, after in changes]
    assert directions == sorted(directions, reverse=True), changes


def test_what_is_asked_for_becomes_bounds_or_is_refused() -> None:
    assert BOUNDS.changed("graders", 64, None, None) == Bounds(minimum=64, maximum=64)
    assert BOUNDS.changed("graders", None, 4, None) == Bounds(minimum=4, maximum=16)
    assert BOUNDS.changed("graders", None, None, 3) == Bounds(minimum=2, maximum=3)
    assert BOUNDS.changed("graders", 32, 8, None) == Bounds(minimum=8, maximum=32)
    assert BOUNDS.changed("graders", 1, None, 64) == Bounds(minimum=1, maximum=64)
    with pytest.raises(ConfigError, match="min_graders=20 and max_graders=16 contradict"):
        BOUNDS.changed("graders", None, 20, None)
    with pytest.raises(ConfigError, match="min_graders=2 and max_graders=8 and graders=9 contradict"):
        BOUNDS.changed("graders", 9, None, 8)


def test_settings_whose_start_is_out_of_bounds_are_refused_with_all_three_keys() -> None:
    for wrong in ({"num_graders": 4, "max_graders": 3}, {"min_graders": 3}, {"min_graders": 2, "max_graders": 1}):
        with pytest.raises(ValidationError, match=r"num_graders=\d .*min_graders=\d .*max_graders=\d"):
            GraderSettings.model_validate(wrong)
    assert (GraderSettings(num_graders=7).minimum, GraderSettings(num_graders=7).maximum) == (7, 7)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_job_goes_to_the_least_loaded_and_who_waited_longest_comes_first() -> None:
    async def scenario() -> None:
        roster = Roster(Clock())
        first, second = roster.add("first"), roster.add("second")
        held = [await roster.take(since=100.0) for _ in range(2 * JOBS_PER_MEMBER)]
        assert [member.handle for member in held] == ["first", "second"] * JOBS_PER_MEMBER
        late = asyncio.create_task(roster.take(since=99.0))
        early = asyncio.create_task(roster.take(since=98.0))  # it was tried before, elsewhere
        await asyncio.sleep(0)
        assert roster.usage().num_waiting == 2
        roster.give_back(second)
        assert await early is second
        assert not late.done()
        roster.give_back(first)
        assert await late is first

    asyncio.run(scenario())


def test_a_member_that_retires_gets_no_work_and_ends_what_it_has() -> None:
    async def scenario() -> None:
        clock = Clock()
        roster = Roster(clock)
        leaver, stayer = roster.add("leaver"), roster.add("stayer")
        assert await roster.take(since=100.0) is leaver
        retiring = asyncio.create_task(roster.retire(leaver))
        await asyncio.sleep(0)
        assert [(await roster.take(since=100.0)).handle for _ in range(JOBS_PER_MEMBER)] == ["stayer"] * JOBS_PER_MEMBER
        waiting = asyncio.create_task(roster.take(since=100.0))
        clock.now += 3
        await asyncio.sleep(0)
        assert not waiting.done() and not retiring.done()
        assert roster.usage() == Usage(
            num_replicas=1, busy_seconds=6.0, num_running=3, num_waiting=1, capacity_seconds=6.0
        )
        roster.give_back(leaver)
        await retiring
        clock.now += 1
        assert not waiting.done()
        assert roster.usage().capacity_seconds == 7.0
        roster.give_back(stayer)
        assert await waiting is stayer

    asyncio.run(scenario())


def test_a_job_that_nobody_waits_for_any_more_takes_nobodys_place() -> None:
    async def scenario() -> None:
        clock = Clock()
        roster = Roster(clock)
        member = roster.add("one")
        for _ in range(JOBS_PER_MEMBER):
            await roster.take(since=100.0)
        gone, patient = (asyncio.create_task(roster.take(since=since)) for since in (90.0, 91.0))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert roster.oldest_wait_seconds() == 0.0
        clock.now += 9
        assert roster.oldest_wait_seconds() == 9.0  # since it was asked for here, whenever it was tried before
        roster.give_back(member)
        assert await patient is member
        # Given up in the very moment in which it was to begin.
        unlucky = asyncio.create_task(roster.take(since=100.0))
        await asyncio.sleep(0)
        roster.give_back(member)
        unlucky.cancel()
        await asyncio.sleep(0)
        assert member.load == JOBS_PER_MEMBER - 1

    asyncio.run(scenario())


def test_a_dead_member_is_removed_once_and_its_time_is_counted_once() -> None:
    async def scenario() -> None:
        clock = Clock()
        roster = Roster(clock)
        member = roster.add("mortal")
        for _ in range(2):
            await roster.take(since=100.0)
        clock.now += 2
        assert roster.remove(member)
        clock.now += 5
        for _ in range(2):
            roster.give_back(member)
        assert not roster.remove(member)
        assert roster.usage() == Usage(
            num_replicas=0, busy_seconds=2.0, num_running=0, num_waiting=0, capacity_seconds=2.0
        )
        waiting = asyncio.create_task(roster.take(since=100.0))
        await asyncio.sleep(0)
        roster.refuse(UngradableError("it is over"))
        with pytest.raises(UngradableError, match="it is over"):
            await waiting
        with pytest.raises(UngradableError, match="it is over"):
            await roster.take(since=100.0)

    asyncio.run(scenario())
