import asyncio

import pytest
from rich.console import Console

from cluster.console import evaluation_table
from cluster.evaluation import attempt_all, summarize, warning_of_lost
from cluster.types import Completion, Grade, Problem, Prompt, Sampling, UngradableError
from rollout.fake import FakeSamplerPool
from tests.cluster.made import grade, group, problem


def test_figures_are_over_completions_and_the_error_over_problems() -> None:
    result = summarize([group([1.0, 0.0]), group([0.5, 0.5, None]), group([None])], "x")
    assert result["reward"] == pytest.approx(0.5)
    assert result["reward_standard_error"] == pytest.approx(0.0)
    assert result["pass_rate"] == 0.25
    assert result["solved_once"] == 0.5
    assert (result["num_problems"], result["num_completions"], result["num_ungradable"]) == (2, 4, 2)


def test_problems_that_could_not_be_measured_are_counted_and_told() -> None:
    some = summarize([group([1.0]), group([None]), group([])], "x")
    assert (some["num_problems"], some["num_lost_problems"]) == (1, 2)
    assert "2 of 3 problems could not be measured" in str(warning_of_lost(some))
    assert warning_of_lost(summarize([group([1.0]), group([0.5, None])], "x")) is None


def test_an_evaluation_without_a_single_grade_is_no_result() -> None:
    with pytest.raises(UngradableError):
        summarize([group([None])], "x")


def test_every_problem_is_attempted_with_seeds_of_its_own() -> None:
    class Judge:
        async def grade(self, problem: Problem, completion: Completion) -> Grade:
            return grade(1.0)

        async def close(self) -> None: ...

    problems = [problem(str(number)) for number in range(3)]
    samplers = FakeSamplerPool(lambda *_: "x")
    done = []
    groups = asyncio.run(
        attempt_all(
            problems,
            {one.id: Prompt(problem_id=one.id, text="", token_ids=(1,)) for one in problems},
            samplers=samplers,
            graders=Judge(),
            sampling=Sampling(temperature=1.0, max_completion_tokens=8),
            completions_per_problem=2,
            seed=0,
            name="held-out",
            on_done=lambda: done.append(1),
        )
    )
    assert [one.problem.id for one in groups] == ["0", "1", "2"]
    assert len(done) == 3
    assert sorted(request.seed for request in samplers.requests) == [0, 2, 4]


def test_the_table_shows_the_change_and_the_number_of_completions() -> None:
    results = [summarize([group([0.0, 0.5])], "before"), summarize([group([0.5, 1.0])], "after")]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(evaluation_table(results, "held out"))
    text = console.export_text()
    assert "+0.500" in text
    assert "+50.0 points" in text
    assert "completions" in text
