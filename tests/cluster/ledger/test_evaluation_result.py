"""The JSON form of an evaluation."""

import json

from cluster.ledger.evaluation_result import EvaluationResult
from cluster.loop.evaluation import summarize
from cluster.types import Verdict
from tests.cluster.records import group


def test_a_result_is_restored_from_its_row() -> None:
    result = summarize([group([1.0, 0.0]), group([0.5, None])], "after", 20)
    row = json.loads(json.dumps(result.as_row()))
    assert list(row)[:3] == ["step", "name", "reward"]
    assert row["verdict_passed"] == result.share_of(Verdict.PASSED) > 0
    restored = EvaluationResult.from_row(row)
    assert json.loads(json.dumps(restored.as_row())) == row
    assert (restored.by_problem, restored.reward_terms) == (tuple(result.by_problem), result.reward_terms)


def test_a_result_of_an_older_version_lacks_fields() -> None:
    row = {
        "name": "before",
        "step": 0,
        "reward": 0.5,
        "reward_standard_error": 0.1,
        "pass_rate": 0.25,
        "solved_once": 0.5,
    }
    old = EvaluationResult.from_row(row)
    assert (old.reward, old.num_lost_problems, old.by_problem) == (0.5, 0, ())
