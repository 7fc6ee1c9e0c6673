"""Time accounting of the parts, with a clock that the test advances."""

import pytest

from cluster.console import busy_line
from cluster.loop.timeline import Timeline
from cluster.types import Usage


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def usage(busy_seconds: float, num_replicas: int = 2) -> Usage:
    return Usage(num_replicas=num_replicas, busy_seconds=busy_seconds, num_running=0, num_waiting=3)


def test_waiting_seconds_are_attributed_to_the_part_that_is_waited_for() -> None:
    clock = Clock()
    timeline = Timeline(clock)
    timeline.requested(2)
    clock.now += 4  # sampling: the learner and the graders wait for the samplers
    timeline.sampled()
    timeline.sampled()
    clock.now += 1  # grading: learner and samplers wait for the graders
    timeline.graded()
    timeline.graded()
    with timeline.learning():
        clock.now += 2  # the samplers wait for the learner
    with timeline.publishing():
        clock.now += 3  # all parts wait for the publish
    metrics = timeline.take_metrics({"samplers": usage(8.0), "graders": usage(1.0)})
    assert metrics == {
        "step_seconds": 10,
        "learner_waited_for_samplers_seconds": 4,
        "graders_waited_for_samplers_seconds": 4,
        "learner_waited_for_graders_seconds": 1,
        "samplers_waited_for_graders_seconds": 1,
        "learner_busy_seconds": 2,
        "samplers_waited_for_learner_seconds": 2,
        "learner_waited_for_publish_seconds": 3,
        "samplers_waited_for_publish_seconds": 3,
        "learner_waited_for_evaluation_seconds": 0,
        "learner_waited_for_driver_seconds": 0,
        "samplers_waited_for_driver_seconds": 0,
        "learner_busy_share": 0.2,
        "samplers_busy_share": pytest.approx(0.4),
        "samplers_waiting": 3,
        "num_samplers": 2,
        "num_samplers_lost": 0,
        "graders_busy_share": pytest.approx(0.05),
        "graders_waiting": 3,
        "num_graders": 2,
        "num_graders_lost": 0,
    }
    assert busy_line(metrics) == (
        "busy: samplers 40%, graders 5%, learner 20%; learner waited for samplers 4.0 s, graders waited for samplers 4.0 s, "
        "samplers waited for publish 3.0 s, learner waited for publish 3.0 s, samplers waited for learner 2.0 s, "
        "samplers waited for graders 1.0 s, learner waited for graders 1.0 s"
    )


def test_take_metrics_counts_only_the_time_since_the_last_call() -> None:
    clock = Clock()
    timeline = Timeline(clock)
    timeline.requested(1)
    clock.now += 5
    timeline.take_metrics({"samplers": usage(5.0, num_replicas=1)})
    clock.now += 5
    metrics = timeline.take_metrics({"samplers": usage(7.5, num_replicas=1)})
    assert metrics["step_seconds"] == 5
    assert metrics["samplers_busy_share"] == 0.5


def test_the_busy_share_of_a_scaled_pool_is_relative_to_the_lifetime_of_its_replicas() -> None:
    clock = Clock()
    timeline = Timeline(clock)

    def graders(busy_seconds: float, capacity_seconds: float, num_replicas: int) -> dict[str, Usage]:
        one = Usage(
            num_replicas=num_replicas,
            busy_seconds=busy_seconds,
            num_running=0,
            num_waiting=0,
            capacity_seconds=capacity_seconds,
            num_lost=2,
        )
        return {"graders": one}

    timeline.take_metrics(graders(0.0, 0.0, num_replicas=1))
    clock.now += 10  # one grader for 10 s and three more for the last second, all busy
    assert timeline.take_metrics(graders(13.0, 13.0, num_replicas=4))["graders_busy_share"] == 1.0
    clock.now += 10  # three of them leave after 5 s, and none has work
    metrics = timeline.take_metrics(graders(13.0, 13.0 + 25.0, num_replicas=1))
    assert (metrics["graders_busy_share"], metrics["num_graders"]) == (0.0, 1.0)
    assert metrics["num_graders_lost"] == 2.0
    clock.now += 4
    assert timeline.take_metrics(graders(15.0, 42.0, num_replicas=1))["graders_busy_share"] == 0.5


def test_an_evaluation_keeps_the_samplers_busy_and_the_learner_waiting() -> None:
    clock = Clock()
    timeline = Timeline(clock)
    with timeline.evaluating():
        with timeline.learning():
            clock.now += 2
        clock.now += 3
    metrics = timeline.take_metrics({})
    assert metrics["learner_waited_for_evaluation_seconds"] == 3
    assert {name for name, seconds in metrics.items() if name.startswith("samplers_waited") and seconds} == set()


def test_cancelled_completions_cause_no_waiting_time() -> None:
    clock = Clock()
    timeline = Timeline(clock)
    timeline.requested(3)
    timeline.sampled()
    timeline.cancelled(num_sampling=2, num_grading=1)
    clock.now += 2
    assert timeline.take_metrics({})["samplers_waited_for_driver_seconds"] == 2
