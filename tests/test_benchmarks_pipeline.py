"""Times of a run's simulated parts, and the real driver on these parts."""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.pipeline import Pipeline, Size
from benchmarks.pipeline_tables import tables
from benchmarks.service_times import TINY_ON_CPU, Kind, ServiceTimes, at_share
from benchmarks.simulated import DriverTime, Engine, now
from benchmarks.virtual_time import simulate

EVEN = ServiceTimes(
    name="all alike",
    token_quantiles=(10, 10),
    step_seconds=((1, 0.1), (2, 0.15), (4, 0.25)),
    prefill_tokens=0,
    max_running=4,
    kinds=(Kind(share=1.0, cpu_ms=100, reward=1.0),),
    grading_spread=0.0,
    learner_seconds_per_token=0.001,
    publish_seconds=(0.0,),
    driver_seconds_per_sampled=0.0,
    driver_seconds_per_graded=0.0,
)


async def end_times(*work: Coroutine[Any, Any, object]) -> list[float]:
    """Return the time at which each coroutine ended."""

    async def timed(coroutine: Coroutine[Any, Any, object]) -> float:
        await coroutine
        return now()

    return list(await asyncio.gather(*map(timed, work)))


def run_engine(tokens: Sequence[float], starts: Sequence[float] | None = None) -> tuple[list[float], Engine]:
    async def run() -> tuple[list[float], Engine]:
        engine = Engine(EVEN)

        async def sample_later(num_tokens: float, start: float) -> None:
            await asyncio.sleep(start)
            await engine.sample(num_tokens)

        return await end_times(
            *(sample_later(*pair) for pair in zip(tokens, starts or [0.0] * len(tokens), strict=True))
        ), engine

    return simulate(run())


def test_a_token_takes_longer_the_more_completions_the_engine_runs() -> None:
    assert run_engine([10])[0] == pytest.approx([1.0])
    # Both take 0.15 s per token until the shorter one ends; then the longer one takes 0.1 s.
    assert run_engine([10, 20])[0] == pytest.approx([1.5, 2.5])
    # The first runs alone for 5 tokens, both run for 5 tokens at 0.15 s, and the second runs alone for 5 tokens at 0.1 s.
    assert run_engine([10, 10], [0.0, 0.5])[0] == pytest.approx([1.25, 1.75])


def test_completions_of_a_full_engine_wait_in_order() -> None:
    took, engine = run_engine([10, 10, 10, 10, 10, 10])
    assert took == pytest.approx([2.5, 2.5, 2.5, 2.5, 4.0, 4.0])
    assert engine.busy_seconds == pytest.approx(4.0)
    assert engine.output_seconds == pytest.approx(60 * 0.25 / 4)


def test_a_cancelled_completion_lets_the_others_end_sooner() -> None:
    async def run() -> list[float]:
        engine = Engine(EVEN)
        cancelled = asyncio.create_task(engine.sample(100))

        async def cancel() -> None:
            await asyncio.sleep(0.75)
            cancelled.cancel()

        return await end_times(engine.sample(10), cancel())

    # 5 tokens together with the cancelled completion, 5 after it.
    assert simulate(run())[0] == pytest.approx(0.75 + 0.5)


def test_one_driver_works_serially_and_several_drivers_share_the_work_evenly() -> None:
    async def run(num_drivers: float) -> list[float]:
        driver = DriverTime(num_drivers)
        return await end_times(*(driver.spend(0.2) for _ in range(3)))

    assert simulate(run(1)) == pytest.approx([0.2, 0.4, 0.6])
    assert simulate(run(2)) == pytest.approx([0.1, 0.2, 0.3])


def test_drawn_lengths_and_times_follow_the_measured_quantiles() -> None:
    assert [at_share((0, 10, 40), share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 5, 10, 25, 40]
    source = random.Random(0)
    drawn = [TINY_ON_CPU.num_tokens(source) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(TINY_ON_CPU.mean_tokens, rel=0.02)
    seconds = [TINY_ON_CPU.grading_seconds(TINY_ON_CPU.kind(source), source) for _ in range(20_000)]
    assert sum(seconds) / len(seconds) == pytest.approx(TINY_ON_CPU.grading_cpu_seconds, rel=0.05)


def simulated(size: Size, times: ServiceTimes) -> Any:
    return simulate(Pipeline(size, times, num_steps=6).run())


def test_a_full_sampler_has_the_throughput_of_its_service_times() -> None:
    measurements = simulated(Size(samplers=2, graders=8, allowed_staleness=2, fillings=4.0), EVEN)
    assert measurements.completions_per_second == pytest.approx(2 * EVEN.completions_per_second, rel=0.02)
    assert measurements.sampler_busy > 0.99
    assert measurements.saturated == "samplers"
    assert measurements.max_staleness <= 2


def test_too_few_graders_limit_the_throughput() -> None:
    # A grading takes 1 s: one grader grades 1 completion per second, and two samplers could sample 3.2.
    slow = replace(EVEN, kinds=(Kind(share=1.0, cpu_ms=1000, reward=1.0),))
    measurements = simulated(Size(samplers=2, graders=1), slow)
    assert measurements.completions_per_second == pytest.approx(1.0, rel=0.05)
    assert (measurements.saturated, measurements.sampler_busy < 0.9) == ("graders", True)


def test_one_learner_limits_the_throughput_of_too_many_samplers() -> None:
    slow = replace(EVEN, learner_seconds_per_token=0.1)
    measurements = simulated(Size(samplers=4, graders=8, one_learner=True), slow)
    assert measurements.completions_per_second == pytest.approx(1.0, rel=0.05)
    assert measurements.saturated == "learner"
    assert measurements.learner_waits_seconds < 0.1 * measurements.step_seconds


def test_without_staleness_samplers_wait_for_the_learner() -> None:
    slower = replace(EVEN, learner_seconds_per_token=0.03)  # a learner is busy half of the time that a sampler is
    synchronous = simulated(Size(samplers=1, graders=8, allowed_staleness=0), slower)
    one_off = simulated(Size(samplers=1, graders=8, allowed_staleness=1), slower)
    assert synchronous.mean_staleness == 0
    assert synchronous.sampler_busy < 0.7
    assert one_off.sampler_busy > 0.95


def test_the_tables_render() -> None:
    import io
    from dataclasses import asdict

    from rich.console import Console

    size = Size(samplers=1, graders=8)
    row = {"groups_per_step": 16, **asdict(size), **asdict(simulated(size, EVEN))}
    result = {
        "times": EVEN.name,
        "completions_per_second_of_a_full_sampler": EVEN.completions_per_second,
        "tokens_per_completion": EVEN.mean_tokens,
        "graders_per_sampler": EVEN.graders_per_sampler,
        "samplers_per_learner": EVEN.samplers_per_learner,
        "samplers_per_driver": 10.0,
        "sizes": {"one": [row]},
    }
    printed = io.StringIO()
    console = Console(file=printed, width=80)
    for table in tables(result):
        console.print(table)
    text = printed.getvalue()
    assert "…" not in text
    assert f"{row['sampler_busy']:.1%}" in text
