"""A short soak; the long one is ``make soak-grader``."""

from benchmarks.grader_soak import soak
from benchmarks.hostile import hostile_jobs
from benchmarks.mix import jobs
from cluster.types import Verdict


def test_hundreds_of_gradings_leave_nothing_behind_and_say_what_fresh_workers_say() -> None:
    found = soak(400, num_workers=2, friendly=jobs(40), hostile=hostile_jobs())
    assert found.left == []
    assert found.different == []
    assert found.ungradable == []
    assert found.num_compared > 300
    assert {Verdict.PASSED, Verdict.TYPE_ERROR, Verdict.SYNTAX_ERROR, Verdict.TIMEOUT} <= found.verdicts.keys()
