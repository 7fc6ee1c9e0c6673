"""Order in which graders get jobs, by a clock that the test turns."""

import asyncio

import pytest
from pydantic import ValidationError

from cluster.errors import UngradableError
from cluster.types import Usage
from grader.dispatcher import JOBS_PER_MEMBER, Roster
from grader.settings import GraderSettings


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
