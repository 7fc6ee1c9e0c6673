"""The clock of the pipeline's simulation."""

import asyncio
import time

import pytest

from benchmarks.virtual_time import SimulationStalled, simulate


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_simulated_hour_takes_seconds_of_real_time() -> None:
    async def sleep() -> float:
        await asyncio.sleep(3600)
        return now()

    began = time.monotonic()
    assert simulate(sleep()) == pytest.approx(3600)
    assert time.monotonic() - began < 5


def test_sleepers_wake_in_the_order_of_their_timers_each_at_its_time() -> None:
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append((name, now()))

    async def sleep_all() -> None:
        await asyncio.gather(sleep("late", 2.0), sleep("early", 0.25), sleep("middle", 1.5), sleep("again", 0.25))

    simulate(sleep_all())
    assert [name for name, _ in woken] == ["early", "again", "middle", "late"]
    assert [at for _, at in woken] == pytest.approx([0.25, 0.25, 1.5, 2.0])


def test_work_between_two_timers_takes_no_simulated_time() -> None:
    async def work() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        time.sleep(0.01)  # noqa: ASYNC251 - real time, which must not count
        return now()

    assert simulate(work()) == 0.0


def test_timeouts_follow_the_simulated_clock() -> None:
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.sleep(61)
        return now()

    assert simulate(wait()) == pytest.approx(60)


def test_a_stalled_simulation_raises_an_error() -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(SimulationStalled, match="cannot continue"):
        simulate(wait())
