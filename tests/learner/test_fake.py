import asyncio
from pathlib import Path

import pytest

from cluster.errors import LearnerError
from cluster.protocols import Learner
from learner.fake import FakeLearner
from tests.learner.factories import group


def test_the_fake_numbers_its_policies_and_records_its_inputs() -> None:
    fake = FakeLearner(max_steps=2)
    learner: Learner = fake  # mypy checks the protocol
    assert asyncio.run(learner.start()) is None
    policy, report = asyncio.run(learner.step([group([1.0, 0.0])]))
    assert (policy.number, report.step) == (1, 1)
    asyncio.run(learner.step([group([1.0, 0.0], seed=1)]))
    assert [each.id for step in fake.steps for each in step] == ["g0", "g1"]
    with pytest.raises(LearnerError, match="max_steps"):
        asyncio.run(learner.step([group([1.0, 0.0])]))


def test_the_fake_reports_the_completions_of_the_loss() -> None:
    _, report = asyncio.run(FakeLearner().step([group([1.0, None, 0.0])]))
    assert report.advantages["g0-c0"] == -report.advantages["g0-c2"] == pytest.approx(0.5 / 0.70721, rel=1e-4)
    assert report.excluded == {"g0-c1": "ungradable"}
    assert report.metrics["num_completions"] == 2.0
    fake = FakeLearner(max_staleness=0)
    asyncio.run(fake.step([group([1.0, 0.0])]))
    with pytest.raises(LearnerError, match="2 stale"):
        asyncio.run(fake.step([group([1.0, 0.0])]))


def test_the_fake_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    first = FakeLearner(tmp_path)
    asyncio.run(first.step([group([1.0, 0.0])]))
    assert asyncio.run(first.save_checkpoint()) == str(tmp_path / "checkpoint-1")
    policy = asyncio.run(FakeLearner(tmp_path).start())
    assert policy is not None
    assert policy.number == 1


def test_the_fake_refuses_the_same_batches_as_the_real_learner() -> None:
    fake = FakeLearner()
    with pytest.raises(LearnerError, match="nothing to learn from"):
        asyncio.run(fake.step([group([None, None])]))
    asyncio.run(fake.close())
    with pytest.raises(LearnerError, match="closed"):
        asyncio.run(fake.step([group([1.0, 0.0])]))
