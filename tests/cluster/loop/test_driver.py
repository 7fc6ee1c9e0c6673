"""The loop with fakes: trained groups and their policies, and outcomes of the other groups."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.errors import CaravanError, GroupFailed, LearnerError, RunFolderError, UngradableError
from cluster.health.monitor import Response
from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.progress import Progress
from cluster.loop.driver import Driver
from cluster.loop.parts import Hooks, Pools, TrainingProblems
from cluster.problems.dataset import ProblemStream
from cluster.types import (
    Completion,
    Grade,
    Group,
    GroupRequest,
    Outcome,
    PolicyVersion,
    Problem,
    Prompt,
    StepReport,
    Usage,
    WeightSync,
)
from learner.fake import FakeLearner
from rollout.fake import FakeSamplerPool
from tests.cluster.records import grade, problem

DEADLINE_SECONDS = 120.0  # of a run that takes less than a second on an idle machine


class MemoryRecorder:
    def __init__(self) -> None:
        self.steps: list[tuple[Group, ...]] = []
        self.learned = asyncio.Event()
        self.dropped: list[DroppedGroup] = []
        self.saved: dict[int, str] = {}
        self.num_suspensions = 0
        self.metrics: list[Mapping[str, float]] = []
        self.published: list[int] = []
        self.settings_changes: list[tuple[int, dict[str, object]]] = []
        self.responses: list[tuple[int, Response]] = []

    def group_dropped(self, dropped: DroppedGroup, step: int) -> None:
        self.dropped.append(dropped)

    def step_done(
        self,
        epoch: float,
        groups: Sequence[Group],
        report: StepReport,
        metrics: Mapping[str, float],
        active_overrides: Mapping[str, object],
    ) -> None:
        self.steps.append(tuple(groups))
        self.metrics.append(metrics)
        self.learned.set()

    def settings_changed(self, step: int, values: Mapping[str, object]) -> None:
        self.settings_changes.append((step, dict(values)))

    def health_checked(self, step: int, response: Response) -> None:
        self.responses.append((step, response))

    def policy_published(self, version: int, syncs: Sequence[WeightSync], began_at: float, seconds: float) -> None:
        self.published.append(version)

    def filter_suspended(self, step: int) -> None:
        self.num_suspensions += 1

    def save_progress(self, step: int, state: str) -> None:
        self.saved[step] = state


class ScriptedGraders:
    """Graders whose reward is a function of the completion."""

    def __init__(self, reward: Callable[[Completion], float | None]) -> None:
        self._reward = reward

    async def grade(self, problem: Problem, completion: Completion) -> Grade:
        reward = self._reward(completion)
        if reward is None:
            raise UngradableError("no grader is alive")
        return grade(reward)

    def usage(self) -> Usage:
        return Usage(num_replicas=1, busy_seconds=0.0, num_running=0, num_waiting=0)

    async def close(self) -> None:
        pass


def settings(*overrides: str) -> Config:
    mode = "weight_sync_mode=versions"  # the fake samplers': running completions end under their policy
    defaults = ["groups_per_step=2", "group_size=2", "save_every_steps=2", mode]
    return load_config(None, [*defaults, *overrides], environment={})


def alternating(completion: Completion) -> float:
    return float(completion.index % 2)


def make_driver(
    config: Config,
    *,
    max_steps: int = 4,
    samplers: FakeSamplerPool | None = None,
    learner: FakeLearner | None = None,
    reward: Callable[[Completion], float | None] = alternating,
    records: MemoryRecorder | None = None,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
    num_problems: int = 5,
    evaluate: Callable[[int], Coroutine[Any, Any, None]] | None = None,
) -> Driver:
    problems = [problem(f"p{number}") for number in range(num_problems)]
    return Driver(
        config,
        Pools(
            samplers=samplers or FakeSamplerPool(lambda *_: "n + 1"),
            graders=ScriptedGraders(reward),
            learner=learner or FakeLearner(),
        ),
        TrainingProblems(
            stream=ProblemStream(problems, seed=0),
            prompts={one.id: Prompt(problem_id=one.id, text="", token_ids=(1,)) for one in problems},
        ),
        Hooks(recorder=records or MemoryRecorder(), evaluate=evaluate),
        max_steps=max_steps,
        progress=progress or Progress(),
        stop=stop or asyncio.Event(),
    )


def run(driver: Driver) -> int:
    return asyncio.run(asyncio.wait_for(driver.train(), DEADLINE_SECONDS))


def positions(steps: Sequence[Sequence[Group]]) -> list[int]:
    return sorted(int(one.id.removeprefix("g").partition("-")[0]) for step in steps for one in step)


def test_a_synchronous_run_trains_every_group_under_the_newest_policy(tmp_path: Path) -> None:
    records = MemoryRecorder()
    assert run(make_driver(settings(), learner=FakeLearner(tmp_path), records=records)) == 4
    assert positions(records.steps) == list(range(8))
    for step, groups in enumerate(records.steps):
        assert [group.policy_version for group in groups] == [step, step]


def test_one_step_off_trains_groups_at_most_one_version_old_while_sampling_continues(tmp_path: Path) -> None:
    records = MemoryRecorder()
    samplers = FakeSamplerPool(lambda *_: "n + 1", delay_seconds=lambda request, index: 0.002 * (index + 1))
    config = settings("max_staleness=1")
    run(make_driver(config, samplers=samplers, learner=FakeLearner(tmp_path), records=records, max_steps=6))
    staleness = [step - group.policy_version for step, groups in enumerate(records.steps) for group in groups]
    assert set(staleness) == {0, 1}
    assert positions(records.steps) == list(range(12))


@pytest.mark.parametrize("staleness", [0, 2])
def test_checkpoints_are_evaluated_during_the_next_step_while_the_samplers_serve_their_policy(
    tmp_path: Path, staleness: int
) -> None:
    samplers = FakeSamplerPool(lambda *_: "n + 1", publish_seconds=0.002)
    records = MemoryRecorder()
    evaluated = []

    async def evaluate(step: int) -> None:
        before = samplers.version
        while len(records.steps) == step:  # until the next step is done
            records.learned.clear()
            await records.learned.wait()
        await asyncio.sleep(0.02)
        evaluated.append((step, before, samplers.version, step in records.saved, len(records.steps)))

    config = settings(f"max_staleness={staleness}")
    learner = FakeLearner(tmp_path)
    run(make_driver(config, samplers=samplers, learner=learner, records=records, max_steps=6, evaluate=evaluate))
    assert evaluated == [(2, 2, 2, True, 3), (4, 4, 4, True, 5)]  # the last policy is evaluated after the run
    assert positions(records.steps) == list(range(12))


def test_a_stopped_run_does_not_wait_for_an_evaluation(tmp_path: Path) -> None:
    stop = asyncio.Event()

    async def evaluate(_step: int) -> None:
        stop.set()
        await asyncio.sleep(60)

    assert run(make_driver(settings(), learner=FakeLearner(tmp_path), stop=stop, evaluate=evaluate)) == 2


def test_the_same_seed_requests_the_same_groups(tmp_path: Path) -> None:
    def requests(seed: int) -> list[GroupRequest]:
        samplers = FakeSamplerPool(lambda *_: "n + 1")
        run(make_driver(settings(f"run.seed={seed}"), samplers=samplers, learner=FakeLearner(tmp_path / str(seed))))
        return samplers.requests

    assert requests(3) == requests(3)
    assert len({request.seed for request in requests(3)}) == 8
    assert not {request.seed for request in requests(3)} & {request.seed for request in requests(4)}


def test_groups_without_signal_are_replaced_and_counted(tmp_path: Path) -> None:
    records = MemoryRecorder()

    def reward(completion: Completion) -> float:
        has_signal = int(completion.group_id.removeprefix("g")) % 2 == 1
        return float(completion.index) if has_signal else 0.0

    config = settings("drop_groups_without_signal=true")
    run(make_driver(config, learner=FakeLearner(tmp_path), reward=reward, records=records))
    assert all(group.has_signal for groups in records.steps for group in groups)
    assert {dropped.drop.outcome for dropped in records.dropped} == {Outcome.FILTERED}
    trained, dropped = positions(records.steps), positions([[one.group for one in records.dropped]])
    assert len(trained) == 8
    assert sorted(trained + dropped) == list(range(len(trained) + len(dropped)))


def test_a_policy_without_any_signal_does_not_sample_forever(tmp_path: Path) -> None:
    records = MemoryRecorder()
    config = settings("drop_groups_without_signal=true")
    assert (
        run(make_driver(config, learner=FakeLearner(tmp_path), reward=lambda _: 0.0, records=records, max_steps=2)) == 2
    )
    assert records.num_suspensions > 0


def test_an_ungradable_completion_has_no_reward_and_an_ungradable_group_is_replaced(tmp_path: Path) -> None:
    records = MemoryRecorder()

    def reward(completion: Completion) -> float | None:
        broken = completion.group_id == "g0000001" or (completion.group_id == "g0000000" and completion.index == 0)
        return None if broken else completion.index / 2

    config = settings("group_size=3")
    run(make_driver(config, learner=FakeLearner(tmp_path), reward=reward, records=records))
    assert [dropped.drop.outcome for dropped in records.dropped] == [Outcome.FAILED]
    (first,) = [group for groups in records.steps for group in groups if group.id == "g0000000"]
    assert first.grades[0] is None
    assert first.rewards == (0.5, 1.0)


def test_a_stop_saves_the_last_step_and_a_resume_skips_and_repeats_nothing(tmp_path: Path) -> None:
    records, stop = MemoryRecorder(), asyncio.Event()

    class StopsAfterThree(MemoryRecorder):
        def step_done(
            self,
            epoch: float,
            groups: Sequence[Group],
            report: StepReport,
            metrics: Mapping[str, float],
            active_overrides: Mapping[str, object],
        ) -> None:
            records.step_done(epoch, groups, report, metrics, active_overrides)
            if report.step == 3:
                stop.set()

        def save_progress(self, step: int, state: str) -> None:
            records.save_progress(step, state)

    config = settings("max_staleness=1")
    driver = make_driver(config, learner=FakeLearner(tmp_path), records=StopsAfterThree(), stop=stop, max_steps=6)
    assert run(driver) == 3
    assert sorted(records.saved) == [2, 3]

    async def resume() -> int:
        learner, samplers = FakeLearner(tmp_path), FakeSamplerPool(lambda *_: "n + 1")
        policy = await learner.start()
        assert policy is not None
        await samplers.publish(policy)
        progress = Progress.from_json(records.saved[policy.number])
        return await make_driver(
            config, learner=learner, samplers=samplers, records=records, progress=progress, max_steps=6
        ).train()

    assert asyncio.run(resume()) == 6
    assert positions(records.steps) == list(range(12))


def test_a_failed_publish_ends_the_run_and_the_last_step_can_still_be_saved(tmp_path: Path) -> None:
    class FailingPublish(FakeSamplerPool):
        async def publish(self, policy: PolicyVersion) -> tuple[WeightSync, ...]:
            raise LearnerError("gone")

    records = MemoryRecorder()
    learner = FakeLearner(tmp_path)

    async def scenario() -> None:
        driver = make_driver(settings(), samplers=FailingPublish(lambda *_: "x"), learner=learner, records=records)
        with pytest.raises(ExceptionGroup) as caught:
            await driver.train()
        assert caught.group_contains(LearnerError, match="gone")
        await driver.save_checkpoint()

    asyncio.run(asyncio.wait_for(scenario(), DEADLINE_SECONDS))
    assert list(records.saved) == [1]
    assert len(records.steps) == 1
    assert (tmp_path / "checkpoint-1").exists()


def test_no_task_remains_after_a_run(tmp_path: Path) -> None:
    async def scenario() -> set[asyncio.Task[object]]:
        await make_driver(settings("max_staleness=1"), learner=FakeLearner(tmp_path)).train()
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert not asyncio.run(scenario())


def finished_positions(records: MemoryRecorder) -> list[int]:
    """Return the stream positions that were trained, filtered or failed, with repetitions."""
    final = [dropped.group for dropped in records.dropped if dropped.drop.outcome is not Outcome.STALE]
    return positions([*records.steps, final])


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 3),
    st.sampled_from([1.0, 1.5, 3.0]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_in_any_order_of_events_staleness_is_bounded_and_every_completion_ends_once(
    max_staleness: int, oversampling: float, filtering: bool, rng: Random
) -> None:
    delays: dict[tuple[str, int], float] = {}

    def delay(request: GroupRequest, index: int) -> float:
        return delays.setdefault((request.group_id, index), rng.choice([0.0, 0.001, 0.002, 0.02]))

    def reward(completion: Completion) -> float | None:
        position = int(completion.group_id[1:8])
        if position % 7 == 3:
            return None
        return 0.0 if position % 3 == 1 else float(completion.index % 2)

    records = MemoryRecorder()
    config = settings(
        f"max_staleness={max_staleness}", f"oversampling={oversampling}", f"drop_groups_without_signal={filtering}"
    )
    samplers = FakeSamplerPool(lambda *_: "n + 1", delay_seconds=delay, publish_seconds=0.001)
    with TemporaryDirectory() as folder:
        learner = FakeLearner(Path(folder))
        run(make_driver(config, samplers=samplers, learner=learner, reward=reward, records=records, max_steps=6))

    assert [len(groups) for groups in records.steps] == [2] * 6
    assert records.published == list(range(1, 7))
    for step, groups in enumerate(records.steps):
        assert all(0 <= step - group.policy_version <= max_staleness for group in groups)
    assert len(finished_positions(records)) == len(set(finished_positions(records)))
    requested = {request.group_id for request in samplers.requests}
    assert len(requested) == len(samplers.requests)
    for metrics in records.metrics:
        outcomes = sum(metrics[f"num_{outcome}_so_far"] for outcome in Outcome)
        assert metrics["num_asked_so_far"] == outcomes + metrics["num_under_way"]
    # At the end nothing is in flight: each requested group is trained or dropped.
    finished = [one.id for groups in records.steps for one in groups] + [one.group.id for one in records.dropped]
    not_started = {one.group.id for one in records.dropped if str(one.drop) == "not_started"}
    assert len(finished) == len(set(finished))
    assert set(finished) - not_started <= requested <= set(finished)


def test_a_stale_group_is_cancelled_during_the_step_and_sampled_again(tmp_path: Path) -> None:
    class SlowLearner(FakeLearner):
        async def step(
            self, groups: Sequence[Group], active_overrides: Mapping[str, object] = MappingProxyType({})
        ) -> tuple[PolicyVersion, StepReport]:
            await asyncio.sleep(0.01)
            stale_while_learning.append([dropped.group.id for dropped in records.dropped])
            return await super().step(groups, active_overrides)

    def delay(request: GroupRequest, index: int) -> float:
        return 5.0 if request.group_id == "g0000000" else 0.001

    stale_while_learning: list[list[str]] = []
    records = MemoryRecorder()
    samplers = FakeSamplerPool(lambda *_: "n + 1", delay_seconds=delay)
    config = settings("max_staleness=1")
    run(make_driver(config, samplers=samplers, learner=SlowLearner(tmp_path), records=records))
    # The group would be one version old in step 2 and two in step 3: it becomes stale when the batch of step 2 is taken.
    assert stale_while_learning[:3] == [[], ["g0000000"], ["g0000000"]]
    (dropped,) = records.dropped
    assert (dropped.drop.outcome, str(dropped.drop), dropped.group_size, dropped.group.completions) == (
        Outcome.STALE,
        "stale",
        2,
        (),
    )
    assert "g0000000-2" in {group.id for groups in records.steps for group in groups}


def test_a_problem_whose_groups_are_always_stale_is_dropped_as_too_slow(tmp_path: Path) -> None:
    def delay(request: GroupRequest, index: int) -> float:
        return 5.0 if request.group_id.startswith("g0000000") else 0.0

    records = MemoryRecorder()
    samplers = FakeSamplerPool(lambda *_: "n + 1", delay_seconds=delay)
    run(
        make_driver(
            settings("max_staleness=1"), samplers=samplers, learner=FakeLearner(tmp_path), records=records, max_steps=9
        )
    )
    assert [(one.group.id, one.drop.outcome, str(one.drop)) for one in records.dropped] == [
        ("g0000000", Outcome.STALE, "stale"),
        ("g0000000-2", Outcome.STALE, "stale"),
        ("g0000000-3", Outcome.FILTERED, "too_slow"),
    ]


def test_a_group_that_will_be_filtered_is_stopped_early(tmp_path: Path) -> None:
    def delay(request: GroupRequest, index: int) -> float:
        return 5.0 if request.group_id == "g0000000" and index == 3 else 0.0

    def reward(completion: Completion) -> float:
        return 0.0 if completion.group_id == "g0000000" else float(completion.index % 2)

    records = MemoryRecorder()
    samplers = FakeSamplerPool(lambda *_: "n + 1", delay_seconds=delay)
    config = settings("group_size=4", "min_mean_reward=0.3")
    run(make_driver(config, samplers=samplers, learner=FakeLearner(tmp_path), reward=reward, records=records))
    (dropped,) = records.dropped
    assert (dropped.group.id, dropped.drop.outcome, str(dropped.drop)) == ("g0000000", Outcome.FILTERED, "too_hard")
    assert len(dropped.group.completions) == 3


def test_a_group_on_which_samplers_die_fails_and_the_run_continues(tmp_path: Path) -> None:
    class Fragile(FakeSamplerPool):
        async def sample_group(
            self, request: GroupRequest, started: Callable[[int], None] = lambda _: None
        ) -> AsyncGenerator[Completion]:
            async for completion in super().sample_group(request, started):
                yield completion
                if request.group_id == "g0000001":
                    raise GroupFailed("three samplers died")

    records = MemoryRecorder()
    run(make_driver(settings(), samplers=Fragile(lambda *_: "n + 1"), learner=FakeLearner(tmp_path), records=records))
    (dropped,) = records.dropped
    assert (dropped.group.id, dropped.drop.outcome, str(dropped.drop)) == (
        "g0000001",
        Outcome.FAILED,
        "sampler_failed: three samplers died",
    )
    assert len(records.steps) == 4


def test_a_checkpoint_has_the_progress_of_its_step(tmp_path: Path) -> None:
    """A group that is dropped while the checkpoint of a step is written belongs to the next step."""

    class SlowToSave(FakeLearner):
        async def save_checkpoint(self) -> str:
            await asyncio.sleep(0.02)
            return await super().save_checkpoint()

    def reward(completion: Completion) -> float:
        return 0.0 if int(completion.group_id[1:8]) % 2 else float(completion.index)

    records = MemoryRecorder()
    config = settings("max_staleness=1", "drop_groups_without_signal=true", "save_every_steps=1")
    samplers = FakeSamplerPool(lambda *_: "n + 1", delay_seconds=lambda *_: 0.001)
    run(make_driver(config, samplers=samplers, learner=SlowToSave(tmp_path), reward=reward, records=records))
    for step, state in records.saved.items():
        progress = Progress.from_json(state)
        metrics = records.metrics[step - 1]
        assert sum(progress.outcomes.values()) == sum(metrics[f"num_{outcome}_so_far"] for outcome in Outcome)


def test_the_schedule_changes_groups_filters_rewards_and_learner_at_their_step(tmp_path: Path) -> None:
    schedule = (
        "schedule=[{from_step: 1, set: {rollout.temperature: 1.5, rollout.group_size: 3, grader.weights.tests: 0.1}}, "
        "{from_step: 3, set: {learner.learning_rate: 1.0e-6}}]"
    )
    records, samplers, learner = MemoryRecorder(), FakeSamplerPool(lambda *_: "n + 1"), FakeLearner(tmp_path)
    run(
        make_driver(
            settings("temperature=0.8", "learning_rate=5e-6", schedule),
            samplers=samplers,
            learner=learner,
            records=records,
        )
    )
    first, *later = [samplers.requests[start : start + 2] for start in (0, 2, 4, 6)]
    assert {(one.sampling.temperature, one.group_size) for one in first} == {(0.8, 2)}
    assert {(one.sampling.temperature, one.group_size) for batch in later for one in batch} == {(1.5, 3)}
    assert [one["learning_rate"] for one in learner.active_overrides] == [5e-6, 5e-6, 5e-6, 1e-6]
    assert [step for step, _ in records.settings_changes] == [0, 1, 3]
    assert records.settings_changes[1][1] == {
        "rollout.temperature": 1.5,
        "rollout.group_size": 3,
        "grader.weights.tests": 0.1,
    }
    test_terms = [
        max(grade.terms.tests for group in groups for grade in group.grades if grade) for groups in records.steps
    ]
    assert test_terms == [0.65, 0.1, 0.1, 0.1]
    assert (
        len({request.seed + index for request in samplers.requests for index in range(request.group_size)})
        == 2 * 2 + 6 * 3
    )


def test_a_step_missing_in_the_ledger_gets_no_checkpoint(tmp_path: Path) -> None:
    class FullDisk(MemoryRecorder):
        def step_done(
            self,
            epoch: float,
            groups: Sequence[Group],
            report: StepReport,
            metrics: Mapping[str, float],
            active_overrides: Mapping[str, object],
        ) -> None:
            if report.step == 3:
                raise RunFolderError("the disk is full")
            super().step_done(epoch, groups, report, metrics, active_overrides)

    async def scenario(driver: Driver) -> None:
        with pytest.raises(ExceptionGroup):
            await driver.train()
        with pytest.raises(RunFolderError, match="step 3"):
            await driver.save_checkpoint()

    records = FullDisk()
    asyncio.run(
        asyncio.wait_for(
            scenario(make_driver(settings(), learner=FakeLearner(tmp_path), records=records)), DEADLINE_SECONDS
        )
    )
    assert list(records.saved) == [2]


def test_a_run_whose_graders_all_fail_ends_with_the_reason(tmp_path: Path) -> None:
    records = MemoryRecorder()
    driver = make_driver(settings(), learner=FakeLearner(tmp_path), reward=lambda _: None, records=records)
    with pytest.raises(ExceptionGroup) as failure:
        run(driver)
    assert failure.group_contains(CaravanError, match="consecutive groups failed, .*: ungradable: no grader is alive")
    assert {dropped.drop.outcome for dropped in records.dropped} == {Outcome.FAILED}


class SlowToCancel(FakeSamplerPool):
    """Sampler pool whose groups end, cancelled or not, after the next policy arrives."""

    async def sample_group(
        self, request: GroupRequest, started: Callable[[int], None] = lambda _: None
    ) -> AsyncGenerator[Completion]:
        try:
            async with aclosing(super().sample_group(request, started)) as completions:
                async for completion in completions:
                    yield completion
        finally:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("max_staleness", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_a_stale_group_that_ends_after_the_next_publish_is_released(max_staleness: int, seed: int) -> None:
    rng, delays = Random(seed), dict[str, float]()

    def delay(request: GroupRequest, index: int) -> float:
        return delays.setdefault(request.group_id, rng.choice([0.01, 0.02, 0.2, 0.3]))

    records = MemoryRecorder()
    samplers = SlowToCancel(lambda *_: "n + 1", num_samplers=8, delay_seconds=delay)
    config = settings("oversampling=2", f"max_staleness={max_staleness}")
    with TemporaryDirectory() as folder:
        learner = FakeLearner(checkpoints_dir=Path(folder))
        run(make_driver(config, samplers=samplers, learner=learner, records=records, num_problems=50))
    assert len(records.steps) == 4
