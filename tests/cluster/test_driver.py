"""The loop, with fakes beside it: which groups are trained, under which policy, and what becomes of the others."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from cluster.buffer import Dropped
from cluster.config import Config, load_config
from cluster.driver import Driver
from cluster.problems import ProblemStream
from cluster.progress import Progress
from cluster.types import Completion, Fate, Grade, Group, GroupRequest, LearnerError, Problem, Prompt, UngradableError
from learner.fake import FakeLearner
from rollout.fake import FakeSamplerPool
from tests.cluster.made import grade, problem


class MemoryRecords:
    def __init__(self) -> None:
        self.steps: list[tuple[Group, ...]] = []
        self.dropped: list[Dropped] = []
        self.saved: dict[int, str] = {}
        self.gave_up = 0

    def group_dropped(self, dropped: Dropped, step: int) -> None:
        self.dropped.append(dropped)

    def step_done(self, step: int, epoch: float, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
        self.steps.append(tuple(groups))

    def filtering_gave_up(self, step: int) -> None:
        self.gave_up += 1

    def save_progress(self, progress: Progress) -> None:
        self.saved[progress.step] = progress.to_json()


class Judge:
    """Grades by a function of the completion's number in its group and its policy version."""

    def __init__(self, reward: Callable[[Completion], float | None]) -> None:
        self._reward = reward

    async def grade(self, problem: Problem, completion: Completion) -> Grade:
        reward = self._reward(completion)
        if reward is None:
            raise UngradableError("no grader is alive")
        return grade(reward)

    async def close(self) -> None:
        pass


def settings(*overrides: str) -> Config:
    return load_config(None, ["groups_per_step=2", "group_size=2", "save_every_steps=2", *overrides], environment={})


def alternating(completion: Completion) -> float:
    return float(completion.index % 2)


def make_driver(
    config: Config,
    *,
    max_steps: int = 4,
    samplers: FakeSamplerPool | None = None,
    learner: FakeLearner | None = None,
    reward: Callable[[Completion], float | None] = alternating,
    records: MemoryRecords | None = None,
    progress: Progress | None = None,
    stop: asyncio.Event | None = None,
    num_problems: int = 5,
) -> Driver:
    problems = [problem(f"p{number}") for number in range(num_problems)]
    return Driver(
        config,
        max_steps=max_steps,
        stream=ProblemStream(problems, seed=0),
        prompts={one.id: Prompt(problem_id=one.id, text="", token_ids=(1,)) for one in problems},
        samplers=samplers or FakeSamplerPool(lambda *_: "n + 1"),
        graders=Judge(reward),
        learner=learner or FakeLearner(),
        records=records or MemoryRecords(),
        progress=progress or Progress(),
        stop=stop or asyncio.Event(),
    )


def run(driver: Driver) -> int:
    return asyncio.run(asyncio.wait_for(driver.train(), 10))


def positions(steps: Sequence[Sequence[Group]]) -> list[int]:
    return sorted(int(one.id.removeprefix("g")) for step in steps for one in step)


def test_a_synchronous_run_trains_every_group_under_the_newest_policy(tmp_path: Path) -> None:
    records = MemoryRecords()
    assert run(make_driver(settings(), learner=FakeLearner(tmp_path), records=records)) == 4
    assert positions(records.steps) == list(range(8))
    for step, groups in enumerate(records.steps):
        assert [group.policy_version for group in groups] == [step, step]


def test_one_step_off_trains_groups_at_most_one_version_old_while_sampling_goes_on(tmp_path: Path) -> None:
    records = MemoryRecords()
    samplers = FakeSamplerPool(lambda *_: "n + 1", delay_seconds=lambda request, index: 0.002 * (index + 1))
    config = settings("max_staleness=1")
    run(make_driver(config, samplers=samplers, learner=FakeLearner(tmp_path), records=records, max_steps=6))
    staleness = [step - group.policy_version for step, groups in enumerate(records.steps) for group in groups]
    assert set(staleness) == {0, 1}
    assert positions(records.steps) == list(range(12))


def test_the_same_seed_asks_for_the_same_groups(tmp_path: Path) -> None:
    def requests(seed: int) -> list[GroupRequest]:
        samplers = FakeSamplerPool(lambda *_: "n + 1")
        run(make_driver(settings(f"run.seed={seed}"), samplers=samplers, learner=FakeLearner(tmp_path / str(seed))))
        return samplers.requests

    assert requests(3) == requests(3)
    assert len({request.seed for request in requests(3)}) == 8
    assert not {request.seed for request in requests(3)} & {request.seed for request in requests(4)}


def test_groups_without_signal_are_replaced_and_counted(tmp_path: Path) -> None:
    records = MemoryRecords()

    def reward(completion: Completion) -> float:
        silent = int(completion.group_id.removeprefix("g")) % 2 == 0
        return 0.0 if silent else float(completion.index)

    config = settings("drop_groups_without_signal=true")
    run(make_driver(config, learner=FakeLearner(tmp_path), reward=reward, records=records))
    assert all(group.has_signal for groups in records.steps for group in groups)
    assert {dropped.fate for dropped in records.dropped} == {Fate.FILTERED}
    trained, dropped = positions(records.steps), positions([[one.group for one in records.dropped]])
    assert len(trained) == 8
    assert sorted(trained + dropped) == list(range(len(trained) + len(dropped)))


def test_a_policy_without_any_signal_does_not_sample_for_ever(tmp_path: Path) -> None:
    records = MemoryRecords()
    config = settings("drop_groups_without_signal=true")
    assert (
        run(make_driver(config, learner=FakeLearner(tmp_path), reward=lambda _: 0.0, records=records, max_steps=2)) == 2
    )
    assert records.gave_up > 0


def test_an_ungradable_completion_leaves_the_group_and_an_ungradable_group_is_replaced(tmp_path: Path) -> None:
    records = MemoryRecords()

    def reward(completion: Completion) -> float | None:
        broken = completion.group_id == "g0000001" or (completion.group_id == "g0000000" and completion.index == 0)
        return None if broken else float(completion.index)

    config = settings("group_size=3")
    run(make_driver(config, learner=FakeLearner(tmp_path), reward=reward, records=records))
    assert [dropped.fate for dropped in records.dropped] == [Fate.FAILED]
    (first,) = [group for groups in records.steps for group in groups if group.id == "g0000000"]
    assert first.grades[0] is None
    assert first.rewards == (1.0, 2.0)


def test_a_stop_saves_the_last_step_and_a_resume_skips_and_repeats_nothing(tmp_path: Path) -> None:
    records, stop = MemoryRecords(), asyncio.Event()

    class StopsAfterThree(MemoryRecords):
        def step_done(self, step: int, epoch: float, groups: Sequence[Group], metrics: Mapping[str, float]) -> None:
            records.step_done(step, epoch, groups, metrics)
            if step == 3:
                stop.set()

        def save_progress(self, progress: Progress) -> None:
            records.save_progress(progress)

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


def test_a_dying_sampler_ends_the_run_and_the_step_under_way_can_still_be_saved(tmp_path: Path) -> None:
    class DyingSamplers(FakeSamplerPool):
        async def publish(self, policy: object) -> None:
            raise LearnerError("gone")

    records = MemoryRecords()
    learner = FakeLearner(tmp_path)

    async def scenario() -> None:
        driver = make_driver(settings(), samplers=DyingSamplers(lambda *_: "x"), learner=learner, records=records)
        with pytest.raises(ExceptionGroup) as caught:
            await driver.train()
        assert caught.group_contains(LearnerError, match="gone")
        await driver.save_checkpoint()

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert list(records.saved) == [1]
    assert len(records.steps) == 1
    assert (tmp_path / "checkpoint-1").exists()


def test_no_task_is_left_behind_when_a_run_ends(tmp_path: Path) -> None:
    async def scenario() -> set[asyncio.Task[object]]:
        await make_driver(settings("max_staleness=1"), learner=FakeLearner(tmp_path)).train()
        return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

    assert not asyncio.run(scenario())
