"""The real pool with real graders while their number changes: every completion is graded exactly once."""

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import psutil
import pytest

from cluster.config.load import load_config
from cluster.errors import ConfigError, UngradableError
from cluster.placement.local_ray import start_ray
from cluster.placement.reservations import Reservations
from cluster.types import Grade, Verdict
from grader.pool import JOBS_PER_GRADER, SCALING

from .conftest import QUICK
from .problems import TWICE
from .test_pool import completion

pytestmark = pytest.mark.long

NUM_CPUS = 2
SETTINGS = QUICK.model_copy(update={"num_graders": 1, "cpus_per_grader": 0.5, "run_cpu_seconds": 0.3})
# Like the real policy, with shorter times, so that tests do not take minutes.
QUICK_SCALING = replace(
    SCALING, scale_up_wait_seconds=0.3, settle_seconds=0.5, window_seconds=3.0, scale_down_wait_seconds=0.15
)


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    import ray

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's spelling
    folder = tempfile.mkdtemp(prefix="caravan-ray-", dir="/tmp")  # Ray's sockets need a short path
    start_ray(num_cpus=NUM_CPUS, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 400))


async def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds or the test times out."""
    while not condition():  # noqa: ASYNC110 - nothing signals it
        await asyncio.sleep(0.05)


def slow_jobs(pool: Any, num: int, start: int = 0) -> "list[asyncio.Task[Grade]]":
    """Grade different completions that all time out."""
    texts = [f"let rec twice x = twice (x + {start + index})" for index in range(num)]
    return [asyncio.create_task(pool.grade(TWICE, completion(text, index))) for index, text in enumerate(texts)]


class FullCluster:
    """A reservation without free resources until the test frees them."""

    is_full = True

    def num_additional(self, num_present: int) -> int:
        return 0 if self.is_full else 1

    def request(self, num_wanted: int, *, minimum: int, num_unplaced: int) -> None: ...


def num_free_cpus() -> float:
    import ray

    return float(ray.available_resources().get("CPU", 0.0))


def request_to_the_autoscaler() -> list[dict[str, float]]:
    from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
    from ray.experimental.internal_kv import _internal_kv_get

    return list(json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or b"[]"))


def test_a_pool_grows_while_completions_wait_and_shrinks_while_graders_idle(ray_here: None) -> None:
    from grader.pool import RayGraderPool

    async def scenario() -> None:
        lines: list[str] = []
        pool = RayGraderPool(SETTINGS.model_copy(update={"max_graders": 3}), log=lines.append, scaling=QUICK_SCALING)
        await pool.start()
        jobs = slow_jobs(pool, 60)
        await until(lambda: pool.usage().num_replicas == 3)
        grades = await asyncio.gather(*jobs)
        assert [grade.facts.verdict for grade in grades] == [Verdict.TIMEOUT] * 60
        assert (pool.counts.graded, pool.counts.retried, pool.counts.replaced_actors) == (60, 0, 0)
        await until(lambda: pool.usage().num_replicas == 1)
        await until(lambda: num_free_cpus() == NUM_CPUS - 0.5)
        usage = pool.usage()
        assert usage.capacity_seconds is not None and 0 < usage.busy_seconds <= usage.capacity_seconds
        assert (usage.num_running, usage.num_waiting) == (0, 0)
        assert [line.partition(":")[0] for line in lines] == [
            "scaling 1 -> 2 graders",
            "scaling 2 -> 3 graders",
            "scaling 3 -> 2 graders",
            "scaling 2 -> 1 graders",
        ]
        # The remaining grader works.
        assert (await pool.grade(TWICE, completion("let twice x = x + x"))).facts.verdict is Verdict.PASSED
        await pool.close()

    run(scenario())


def test_no_completion_is_lost_or_graded_twice_when_graders_are_killed_while_their_number_changes(
    ray_here: None,
) -> None:
    from grader.pool import RayGraderPool

    def kill_one() -> None:
        """Kill a grader of this test's own Ray with SIGKILL."""
        for one in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                if "".join(one.cmdline()[:1]).startswith("ray::GraderActor"):
                    one.kill()
                    return

    async def scenario() -> None:
        pool = RayGraderPool(SETTINGS)
        await pool.start()
        jobs = slow_jobs(pool, 40)
        assert (await pool.scale(3)).startswith("scaling 1 -> 3 graders")
        kill_one()
        await until(lambda: pool.usage().num_replicas == 3)
        jobs += slow_jobs(pool, 40, start=1000)
        assert (await pool.scale(1)).startswith("scaling 3 -> 1 graders")
        kill_one()
        assert (await pool.scale(2)).startswith("scaling 1 -> 2 graders")
        grades = await asyncio.gather(*jobs)
        assert [grade.facts.verdict for grade in grades] == [Verdict.TIMEOUT] * 80
        counts = pool.counts
        assert (counts.graded, counts.ungradable) == (80, 0)
        # Only the work of the killed graders was graded again.
        assert 0 < counts.retried <= 2 * JOBS_PER_GRADER
        await until(lambda: pool.usage().num_replicas == 2)
        await pool.close()

    run(scenario())


def test_graders_that_do_not_fit_wait_and_leave_the_resources_of_samplers_free(
    ray_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grader.pool import RayGraderPool

    monkeypatch.setattr("cluster.placement.reservations.PATIENCE_SECONDS", 0.2)
    config = load_config(None, ("cpus_per_sampler=1", "cpus_per_grader=0.5", "num_graders=1"), environment={})

    async def scenario() -> None:
        lines: list[str] = []
        # The CPU of a sampler that is down is free, and must stay free.
        reservations = Reservations(config.without_learner(), lines.append)
        pool = RayGraderPool(SETTINGS, reservation=reservations.graders, log=lines.append)
        await pool.start()
        line = await pool.scale(3)
        assert (
            line == "scaling 1 -> 3 graders; the cluster has resources for 2 now, the others start when machines join"
        )
        await until(lambda: pool.usage().num_replicas == 2)
        await until(request_to_the_autoscaler)
        assert request_to_the_autoscaler() == [{"CPU": 1.0}, *([{"CPU": 0.5}] * 3)]
        assert [line for line in lines if "graders: no free resources for 1 of 3" in line] == lines[1:]
        assert num_free_cpus() >= 1.0
        assert (await pool.grade(TWICE, completion("let twice x = x + x"))).facts.verdict is Verdict.PASSED
        await pool.scale(2)
        await until(lambda: not request_to_the_autoscaler())
        with pytest.raises(ConfigError, match="contradict"):
            await pool.scale(4, max_graders=3)
        await pool.scale(5, min_graders=1)
        await until(request_to_the_autoscaler)
        await pool.close()
        assert request_to_the_autoscaler() == []

    run(scenario())


def test_a_start_waits_for_the_minimum_only(ray_here: None) -> None:
    from grader.pool import RayGraderPool

    async def scenario() -> None:
        pool = RayGraderPool(SETTINGS.model_copy(update={"num_graders": 40, "min_graders": 1, "max_graders": 40}))
        await pool.start()
        assert pool.usage().num_replicas >= 1
        await until(lambda: pool.usage().num_replicas == NUM_CPUS / 0.5)
        await pool.close()

    run(scenario())


def test_completions_fail_with_the_cause_when_no_grader_is_left_and_none_fits(
    ray_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from grader.pool import RayGraderPool

    async def scenario() -> None:
        reservation = FullCluster()
        pool = RayGraderPool(SETTINGS, reservation=reservation)
        await pool.start()
        monkeypatch.setattr("grader.lifecycle.START_SECONDS", 1.0)
        ray.kill(pool._lifecycle.replicas[0].actor)
        with pytest.raises(
            UngradableError,
            match="no grader has been ready for 1 s; last error: grading a completion on grader 0 failed",
        ):
            await pool.grade(TWICE, completion("let twice x = x + x"))
        monkeypatch.undo()
        reservation.is_full = False
        assert (await pool.grade(TWICE, completion("let twice x = x + x"))).facts.verdict is Verdict.PASSED
        await pool.close()

    run(scenario())
