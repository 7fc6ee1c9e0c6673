"""The learner in a Ray actor of its own."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.types import DeadlineExceeded, Learner, LearnerError, ModelError
from learner.settings import LearnerSettings
from tests.learner.made import group, plan, settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    import ray

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so; else the actor waits behind whatever is busy
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Unix socket names are limited
    root = str(Path(__file__).parents[2])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        _temp_dir=folder,
        runtime_env={"env_vars": {"PYTHONPATH": root}},
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def impatient(**changes: float) -> LearnerSettings:
    return settings().model_copy(update=changes)


def test_the_actor_learns_saves_exports_resumes_and_dies_with_a_word(model_folder: Path, tmp_path: Path) -> None:
    from learner.actor import RayLearner

    async def scenario() -> None:
        learner = RayLearner(settings(), plan(model_folder, tmp_path / "checkpoints"))
        seam: Learner = learner  # mypy holds it to the protocol
        lost = RayLearner(settings(), plan(tmp_path / "missing", tmp_path / "checkpoints"))
        started, error = await asyncio.gather(seam.start(), lost.start(), return_exceptions=True)
        await lost.close()
        assert started is None
        assert isinstance(error, ModelError)
        assert str(error) == f"model '{tmp_path / 'missing'}': there is no such folder"

        policy, report = await seam.step([group([1.0, 0.0]), group([0.5, None, 0.0], seed=1)])
        assert policy.number == report.step == 1
        assert set(policy.adapter) == {"adapter_config.json", "adapter_model.safetensors"}
        assert await learner.save_checkpoint() == str(tmp_path / "checkpoints" / "checkpoint-1")
        await learner.export_adapter(tmp_path / "final")
        assert (tmp_path / "final" / "adapter_config.json").is_file()

        with pytest.raises(LearnerError, match="nothing to learn from"):
            await learner.step([group([None, None])])
        with pytest.raises(LearnerError, match="step 2 diverged"):
            await learner.step([group([1.0, 0.0], logprob=float("nan"))])
        with pytest.raises(LearnerError, match="step 2 diverged"):  # it says so again, and does not hang
            await learner.step([group([1.0, 0.0])])
        await learner.close()
        await learner.close()
        with pytest.raises(LearnerError, match="not running"):
            await learner.step([group([1.0, 0.0])])

        again = RayLearner(settings(), plan(model_folder, tmp_path / "checkpoints"))
        assert await again.start() == policy
        again._settings = impatient(step_deadline_seconds=0.001)
        with pytest.raises(DeadlineExceeded, match=r"within 0.001 s; .*learner.step_deadline_seconds"):
            await again.step([group([1.0, 0.0])])
        again._settings = settings()
        waiting = asyncio.ensure_future(again.step([group([1.0, 0.0], seed=seed) for seed in range(500)]))
        await asyncio.sleep(0.1)
        import ray

        ray.kill(again._actor)
        with pytest.raises(LearnerError, match="process died during step"):
            await waiting
        await again.close()

    asyncio.run(scenario())
