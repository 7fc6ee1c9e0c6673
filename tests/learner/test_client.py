"""The learner in a Ray actor."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from cluster.errors import LearnerError, ModelError, ResourcesError
from cluster.placement.local_ray import start_ray
from cluster.protocols import Learner
from cluster.types import Group, PolicyVersion, StepReport
from learner.client import RayLearner
from learner.training.checkpoints import write_checkpoint, write_files
from tests.learner.factories import group, plan, settings
from tests.learner.rank_group import rank_processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    import ray

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so; otherwise busy processes delay the actor
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Unix socket names are limited
    root = str(Path(__file__).parents[2])
    start_ray(
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


STEPS = [[group([1.0, 0.0, 0.3], seed=seed), group([0.5, None, 0.0], seed=10 + seed)] for seed in range(6)]
OPTIONS: dict[str, Any] = {
    "dropout": 0.3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
}  # settings with state in a checkpoint


class Deadly:
    """A group that kills the process that receives it."""

    def __reduce__(self) -> Any:
        return eval, ("__import__('os').kill(__import__('os').getpid(), 9)",)


def process_id(learner: RayLearner, rank: int = 0) -> int:
    import ray

    number: int = ray.get(learner._actors[rank].__ray_call__.remote(lambda _: os.getpid()))
    return number


def kill(learner: RayLearner, rank: int = 0) -> None:
    os.kill(process_id(learner, rank), signal.SIGKILL)


def left_on_disk(learner: RayLearner) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"caravan-learner-{process_id(learner)}-*"))


def processes_of(learner: RayLearner) -> list[psutil.Process]:
    return [psutil.Process(process_id(learner, rank)) for rank in range(len(learner._actors))]


def have_ended(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=60)
    return not alive


def same(one: tuple[PolicyVersion, StepReport], other: tuple[PolicyVersion, StepReport]) -> bool:
    """Bit for bit the same policy, from the same loss."""
    return one[0] == other[0] and all(
        one[1].metrics[name] == other[1].metrics[name] for name in ("loss", "learning_rate", "grad_norm")
    )


def test_the_actor_trains_saves_exports_resumes_and_reports_its_errors(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        learner = RayLearner(settings(), plan(model_folder, tmp_path / "checkpoints"))
        as_protocol: Learner = learner  # mypy checks the protocol
        lost = RayLearner(settings(), plan(tmp_path / "missing", tmp_path / "checkpoints"))
        started, error = await asyncio.gather(as_protocol.start(), lost.start(), return_exceptions=True)
        await lost.close()
        assert started is None
        assert isinstance(error, ModelError)
        assert str(error) == f"model '{tmp_path / 'missing'}': there is no such folder"

        policy, report = await as_protocol.step([group([1.0, 0.0]), group([0.5, None, 0.0], seed=1)])
        assert policy.number == report.step == 1
        assert set(policy.adapter) == {"adapter_config.json", "adapter_model.safetensors"}
        assert await learner.save_checkpoint() == str(tmp_path / "checkpoints" / "checkpoint-1")
        await learner.export_adapter(tmp_path / "final")
        assert (tmp_path / "final" / "adapter_config.json").is_file()
        assert left_on_disk(learner) == []

        with pytest.raises(LearnerError, match="nothing to learn from"):
            await learner.step([group([None, None])])
        with pytest.raises(LearnerError, match="step 2 diverged") as caught:
            await learner.step([group([1.0, None, 0.0], seed=1, logprob=float("nan"))])
        (batch_file,) = (tmp_path / "diverged").iterdir()
        assert str(caught.value).endswith(f"Its batch: {batch_file}")
        rows = pq.read_table(batch_file).to_pylist()
        assert [(row["completion_id"], row["left_out"]) for row in rows] == [
            ("g1-c0", None),
            ("g1-c1", "ungradable"),
            ("g1-c2", None),
        ]
        assert rows[0]["advantage"] > 0 > rows[2]["advantage"]
        assert rows[0]["token_ids"] == list(group([1.0], seed=1).completions[0].token_ids)
        batch_file.unlink()
        batch_file.parent.rmdir()
        batch_file.parent.write_text("in the way")
        with pytest.raises(LearnerError, match=r"step 2 diverged.* could not be written to .*diverged: File exists"):
            await learner.step([group([1.0, 0.0], logprob=float("nan"))])
        with pytest.raises(LearnerError, match="step 2 diverged"):  # the error repeats, and the call does not hang
            await learner.step([group([1.0, 0.0])])
        assert learner.num_restarts == 0  # an error of the learner itself causes no restart
        await learner.close()
        await learner.close()
        with pytest.raises(LearnerError, match="not running"):
            await learner.step([group([1.0, 0.0])])

        again = RayLearner(settings(), plan(model_folder, tmp_path / "checkpoints"))
        assert await again.start() == policy
        call, called = again._call, asyncio.Event()

        async def signalling_call(method: str, *arguments: Any) -> Any:
            called.set()
            return await call(method, *arguments)

        monkeypatch.setattr(again, "_call", signalling_call)
        waiting = asyncio.ensure_future(again.step([group([1.0, 0.0], seed=seed) for seed in range(500)]))
        await called.wait()
        await asyncio.sleep(0.1)
        await again.close()
        with pytest.raises(LearnerError, match="closed during step"):  # and the learner is not restarted
            await waiting
        assert again.num_restarts == 0

    asyncio.run(scenario())


def test_a_killed_learner_is_replaced_with_the_same_adapter_bit_for_bit(
    model_folder: Path, make_learner: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = make_learner(checkpoints="undisturbed", max_steps=6, **OPTIONS)
    expected = [undisturbed.step(groups) for groups in STEPS]

    async def scenario() -> None:
        learner = RayLearner(settings(**OPTIONS), plan(model_folder, tmp_path / "checkpoints", max_steps=6))
        await learner.start()
        outcomes = [await learner.step(STEPS[0])]

        kill(learner)  # between two steps, with no checkpoint yet
        outcomes.append(await learner.step(STEPS[1]))
        assert learner.num_restarts == 1
        assert [report.metrics["num_learner_restarts"] for _, report in outcomes] == [0, 1]
        assert "restarted from step 0 and repeats 1 steps" in caplog.text
        await learner.save_checkpoint()

        outcomes.append(await learner.step(STEPS[2]))
        victim = process_id(learner)
        os.kill(victim, signal.SIGSTOP)  # so that the kill happens in the middle of a step
        stepping = asyncio.ensure_future(learner.step(STEPS[3]))
        await asyncio.sleep(0.2)
        os.kill(victim, signal.SIGKILL)
        outcomes.append(await stepping)
        assert learner.num_restarts == 2
        assert "restarted from step 2 and repeats 1 steps" in caplog.text

        step, files = await learner._actors[0].save_checkpoint.remote()
        write_checkpoint(tmp_path / "checkpoints", step, lambda draft: write_files(files, draft), keep=3)
        kill(learner)  # after the checkpoint is written, before the client knows of it
        outcomes.append(await learner.step(STEPS[4]))
        assert (await learner.save_checkpoint()).endswith("checkpoint-5")
        outcomes.append(await learner.step(STEPS[5]))
        await learner.close()

        assert [policy.number for policy, _ in outcomes] == [1, 2, 3, 4, 5, 6]
        assert [same(one, other) for one, other in zip(outcomes, expected, strict=True)] == [True] * 6

    with caplog.at_level("WARNING", logger="learner.client"):
        asyncio.run(scenario())


@pytest.mark.long
def test_a_hanging_learner_is_replaced_once_and_a_second_loss_raises(model_folder: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        impatient = settings().model_copy(update={"step_deadline_seconds": 40})
        learner = RayLearner(impatient, plan(model_folder, tmp_path / "checkpoints"))
        await learner.start()
        await learner.step(STEPS[0])
        await learner.save_checkpoint()
        hanging = process_id(learner)
        os.kill(hanging, signal.SIGSTOP)
        policy, _ = await learner.step(STEPS[1])
        assert policy.number == 2
        assert learner.num_restarts == 1
        assert not psutil.pid_exists(hanging)

        with pytest.raises(LearnerError) as caught:
            await learner.step([Deadly()])  # type: ignore[list-item]
        message = str(caught.value)
        assert message.count("learner.step failed: the actor's process died") == 2
        assert "The same command resumes the run from checkpoint step 1" in message
        assert "\n" not in message
        assert learner.num_restarts == 2
        with pytest.raises(LearnerError, match="not running"):  # and no state is left to save by mistake
            await learner.save_checkpoint()

    asyncio.run(scenario())


class FailsOnTheSecondRank:
    """A group that the second of two ranks cannot read."""

    def __init__(self, group: Group) -> None:
        self.group = group

    def __reduce__(self) -> Any:
        return _unless_second_rank, (self.group,)


def _unless_second_rank(group: Group) -> Group:
    import torch.distributed

    if torch.distributed.get_rank() == 1:
        raise ValueError("no memory here")
    return group


@pytest.mark.long
def test_if_one_of_two_ranks_is_killed_both_are_replaced_with_the_same_adapter_bit_for_bit(
    model_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner_settings = settings(**OPTIONS, num_ranks=2, micro_batch_tokens=40, cpus=0.5)

    with rank_processes(model_folder, 2) as undisturbed:
        undisturbed.begin(tmp_path / "undisturbed", max_steps=5, micro_batch_tokens=40, **OPTIONS)
        expected = [undisturbed.step(groups) for groups in STEPS[:4]]

    async def scenario() -> list[tuple[PolicyVersion, StepReport]]:
        learner = RayLearner(learner_settings, plan(model_folder, tmp_path / "checkpoints", max_steps=5))
        assert await learner.start() is None
        outcomes = [await learner.step(STEPS[0])]
        assert await learner.save_checkpoint() == str(tmp_path / "checkpoints" / "checkpoint-1")
        await learner.export_adapter(tmp_path / "final")
        outcomes.append(await learner.step(STEPS[1]))

        victim = process_id(learner, rank=1)
        os.kill(victim, signal.SIGSTOP)  # the first rank is then in the middle of a step, waiting for the second
        stepping = asyncio.ensure_future(learner.step(STEPS[2]))
        await asyncio.sleep(3)
        assert not stepping.done()
        os.kill(victim, signal.SIGKILL)
        outcomes.append(await stepping)
        assert learner.num_restarts == 1
        assert "learner.step on rank 1 of 2 failed: the actor's process died" in caplog.text
        assert "restarted from step 1 and repeats 1 steps" in caplog.text
        processes = processes_of(learner)
        outcomes.append(await learner.step(STEPS[3]))
        await learner.close()
        assert have_ended(processes)
        return outcomes

    with caplog.at_level("WARNING", logger="learner.client"):
        outcomes = asyncio.run(scenario())
    assert [policy.number for policy, _ in outcomes] == [1, 2, 3, 4]
    assert [same(one, other) for one, other in zip(outcomes, expected, strict=True)] == [True] * 4


def test_a_rank_that_fails_while_the_other_waits_ends_both_with_its_error(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learner.client.GRACE_SECONDS", 3.0)

    async def scenario() -> None:
        learner_settings = settings(num_ranks=2, micro_batch_tokens=40, cpus=0.5)
        learner = RayLearner(learner_settings, plan(model_folder, tmp_path / "checkpoints"))
        await learner.start()
        await learner.step(STEPS[0])
        with pytest.raises(LearnerError, match="nothing to learn from"):  # all ranks report it and continue
            await learner.step([group([None, None])])
        processes = processes_of(learner)
        failing: Any = FailsOnTheSecondRank(group([1.0, 0.0]))
        with pytest.raises(LearnerError, match="no memory here"):
            await learner.step([failing])
        with pytest.raises(LearnerError, match="not running"):
            await learner.save_checkpoint()
        assert have_ended(processes)
        assert learner.num_restarts == 0

    asyncio.run(scenario())


def test_a_learner_without_resources_reports_what_it_needs(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learner.client.PLACEMENT_SECONDS", 1.0)
    learner = RayLearner(settings(cpus=64), plan(model_folder, tmp_path))
    with pytest.raises(
        ResourcesError,
        match=r"learner: 1 x \(64 CPU\) needed, each on one node; .* 2 CPU, enough for 0 .*learner\.cpus",
    ):
        asyncio.run(learner.start())
    learner = RayLearner(settings(num_ranks=3), plan(model_folder, tmp_path))
    wanted = r"learner: 3 x \(1 CPU\) needed, each on one node; .* enough for 2 .*learner\.num_ranks"
    with pytest.raises(ResourcesError, match=wanted):
        asyncio.run(learner.start())
