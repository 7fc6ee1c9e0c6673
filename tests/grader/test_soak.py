"""A short soak; the long one is ``make soak-grader``."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from benchmarks.grader_soak import Soak, soak
from benchmarks.hostile import hostile_jobs
from benchmarks.mix import jobs
from cluster.types import Verdict


def short_soak() -> Soak:
    return soak(400, num_workers=2, friendly=jobs(40), hostile=hostile_jobs())


def test_hundreds_of_grades_leak_nothing_and_equal_those_of_fresh_workers() -> None:
    # In a separate process, because processes of other tests (Ray) start and end in this one meanwhile.
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as own:
        found = own.submit(short_soak).result()
    assert found.leaked == []
    assert found.different == []
    assert found.ungradable == []
    assert found.num_compared > 300
    assert {Verdict.PASSED, Verdict.TYPE_ERROR, Verdict.SYNTAX_ERROR, Verdict.TIMEOUT} <= found.verdicts.keys()
