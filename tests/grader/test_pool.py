import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import psutil
import pytest
from pydantic import ValidationError

from cluster.actors.lifecycle import ReplicaState
from cluster.errors import UngradableError
from cluster.placement.local_ray import start_ray
from cluster.types import Completion, FinishReason, Grade, Verdict
from grader.fake import FakeGraderPool
from grader.settings import GraderSettings
from grader.toolchain import prepare_toolchain

from .conftest import QUICK
from .problems import SORTED, TWICE

Result = TypeVar("Result")
POOL_SETTINGS = QUICK.model_copy(update={"num_graders": 2, "cpus_per_grader": 0.5, "run_cpu_seconds": 0.4})


def completion(text: str, index: int = 0) -> Completion:
    return Completion(
        id=f"s0-g0-c{index}",
        group_id="s0-g0",
        problem_id="twice",
        index=index,
        prompt_ids=(1,),
        token_ids=(2,),
        sampler_logprobs=(-0.1,),
        text=text,
        finish_reason=FinishReason.STOP,
        policy_version=0,
        seconds=0.1,
    )


def ocaml_programs() -> list[psutil.Process]:
    """Return the OCaml programs among the descendants of this process, which starts Ray."""
    folder = str(prepare_toolchain().front.path.parent)
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            if any(folder in word for word in process.cmdline()):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    import ray

    # Ray's sockets need a short path.
    start_ray(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir="/tmp/caravan-pool-test")
    yield
    ray.shutdown()


def run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(asyncio.wait_for(work, 240))


@pytest.mark.slow
def test_a_pool_grades_many_completions_at_once(ray_here: None) -> None:
    from grader.pool import RayGraderPool

    async def scenario() -> list[Grade]:
        pool = RayGraderPool(POOL_SETTINGS)
        assert "grader sandbox" in await pool.start()
        texts = [f"let twice x = {'x + x' if i % 2 else 'x'} + {i} - {i}" for i in range(40)]
        grades = await asyncio.gather(*(pool.grade(TWICE, completion(text, i)) for i, text in enumerate(texts)))
        assert pool.counts.graded == 40
        # Equal texts of one problem are graded once, equal texts of two problems twice.
        await asyncio.gather(*(pool.grade(TWICE, completion(text, i)) for i, text in enumerate(texts)))
        assert (pool.counts.graded, pool.counts.reused) == (40, 40)
        await pool.grade(SORTED, completion(texts[0]))
        assert pool.counts.graded == 41
        await asyncio.gather(*(pool.grade(TWICE, completion("let twice x = x * 2")) for _ in range(6)))
        assert pool.counts.graded == 42
        inside_a_thought = replace(completion("let twice x = x * 2"), opened_thought="<think>")
        assert (await pool.grade(TWICE, inside_a_thought)).facts.verdict is Verdict.NO_CODE
        counts = [
            (await pool.grade(TWICE, replace(inside_a_thought, token_ends=ends))).facts.num_thought_tokens
            for ends in ((), (20,), (5, 20), (5, 5, 20))  # the same text in other tokens is graded again
        ]
        assert counts == [None, 1, 2, 3]
        await pool.close()
        await pool.close()
        with pytest.raises(UngradableError, match="closed"):
            await pool.grade(TWICE, completion("let twice x = 2 * x"))
        return list(grades)

    grades = run(scenario())
    assert [grade.facts.verdict for grade in grades] == [Verdict.PASSED if i % 2 else Verdict.WRONG for i in range(40)]


@pytest.mark.slow
def test_a_dead_actor_is_replaced_and_its_jobs_are_graded_again(ray_here: None) -> None:
    import ray

    from grader.pool import RayGraderPool

    async def scenario() -> None:
        pool = RayGraderPool(POOL_SETTINGS)
        await pool.start()
        slow = [f"let rec twice x = twice (x + {i})" for i in range(4)]
        jobs = [asyncio.create_task(pool.grade(TWICE, completion(text, i))) for i, text in enumerate(slow)]
        await asyncio.sleep(0.2)
        ray.kill(pool._lifecycle.replicas[0].actor)
        grades = await asyncio.gather(*jobs)
        assert [grade.facts.verdict for grade in grades] == [Verdict.TIMEOUT] * 4
        assert pool.counts.replaced_actors == 1
        assert pool.counts.retried >= 1
        assert pool.counts.ungradable == 0
        await pool.close()

    run(scenario())


@pytest.mark.slow
def test_a_completion_that_no_grader_can_grade_raises_and_gets_no_reward(ray_here: None) -> None:
    import ray

    from grader.pool import RayGraderPool

    async def scenario() -> None:
        pool = RayGraderPool(POOL_SETTINGS)
        await pool.start()
        job = asyncio.create_task(pool.grade(TWICE, completion("let rec twice x = twice x")))

        async def kill_everything() -> None:
            while not job.done():
                for replica in pool._lifecycle.replicas:
                    if replica.state is ReplicaState.READY:
                        ray.kill(replica.actor)
                await asyncio.sleep(0.05)

        killer = asyncio.create_task(kill_everything())
        with pytest.raises(UngradableError, match="3 workers"):
            await job
        await killer
        assert pool.counts.ungradable == 1
        # The pool continues.
        grade = await pool.grade(TWICE, completion("let twice x = x + x"))
        assert grade.facts.verdict is Verdict.PASSED
        await pool.close()

    run(scenario())


@pytest.mark.slow
def test_a_closed_pool_leaves_no_ocaml_process(ray_here: None) -> None:
    from grader.pool import RayGraderPool

    others = set(ocaml_programs())  # of actors that an earlier test killed: they end when Ray has ended their actors

    async def scenario() -> list[psutil.Process]:
        pool = RayGraderPool(POOL_SETTINGS)
        await pool.grade(TWICE, completion("let twice x = x + x"))
        started = [program for program in ocaml_programs() if program not in others]
        await pool.close()
        return started

    started = run(scenario())
    assert started
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not alive


@pytest.mark.slow
def test_killed_graders_leave_no_ocaml_process(ray_here: None) -> None:
    from grader.pool import RayGraderPool

    others = set(ocaml_programs())  # of a grader that other tests share, for example

    async def scenario() -> list[psutil.Process]:
        pool = RayGraderPool(POOL_SETTINGS)
        await pool.grade(TWICE, completion("let twice x = x + x"))
        started = [program for program in ocaml_programs() if program not in others]
        pool._lifecycle.kill_all()
        await pool.close()
        return started

    started = run(scenario())
    assert started
    _, alive = psutil.wait_procs(started, timeout=60)  # Ray takes some seconds to end a killed actor
    assert not alive


def test_the_fake_pool_grades_by_its_function() -> None:
    shares = {"good": 1.0, "half": 0.5, "bad": 0.0}
    pool = FakeGraderPool(lambda _problem, one: shares.get(one.text.split()[0]))

    async def scenario() -> None:
        grades = [await pool.grade(TWICE, completion(f"{text} (* END *)")) for text in shares]
        assert [grade.reward for grade in grades] == pytest.approx([1.0, 0.675, 0.35])
        assert [grade.facts.verdict for grade in grades] == [Verdict.PASSED, Verdict.WRONG, Verdict.WRONG]
        with pytest.raises(UngradableError):
            await pool.grade(TWICE, completion("strange"))
        await pool.close()

    run(scenario())
    assert pool.closed and pool.num_graded == 3


def test_a_number_of_graders_out_of_bounds_is_refused_with_all_three_keys() -> None:
    for wrong in ({"num_graders": 4, "max_graders": 3}, {"min_graders": 3}, {"min_graders": 2, "max_graders": 1}):
        with pytest.raises(ValidationError, match=r"num_graders=\d .*min_graders=\d .*max_graders=\d"):
            GraderSettings.model_validate(wrong)
    assert (GraderSettings(num_graders=7).minimum, GraderSettings(num_graders=7).maximum) == (7, 7)
