import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cluster.analysis.compare import compare_and_report
from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import View, evaluation_table
from cluster.errors import UngradableError
from cluster.ledger.run_folder import RunFolder
from cluster.loop.evaluation import LOST_PROBLEMS, lost_problems_warning, num_distinct, sample_and_grade, summarize
from cluster.problems.run_data import RunData
from cluster.run import evaluate as tryout
from cluster.run.loading import Dataset, RenderedProblems, problems_to_evaluate
from cluster.run.session import run_to_end
from cluster.types import Completion, Grade, Problem, Prompt, Sampling, Usage
from rollout.fake import FakeSamplerPool
from tests.cluster.records import grade, group, problem


def test_means_are_over_completions_and_the_standard_error_over_problems() -> None:
    result = summarize([group([1.0, 0.0]), group([0.5, 0.5, None]), group([None])], "x")
    assert result.reward == pytest.approx(0.5)
    assert result.reward_standard_error == pytest.approx(0.0)
    assert result.pass_rate == 0.25
    assert result.solved_once == 0.5
    assert (result.num_problems, result.num_completions, result.num_ungradable) == (2, 4, 2)


def test_problems_that_could_not_be_measured_are_counted_and_reported() -> None:
    some = summarize([group([1.0]), group([None]), group([])], "x")
    assert (some.num_problems, some.num_lost_problems) == (1, 2)
    assert "2 of 3 problems could not be measured" in str(lost_problems_warning(some))
    assert lost_problems_warning(summarize([group([1.0]), group([0.5, None])], "x")) is None


def test_an_evaluation_without_a_single_grade_is_an_error() -> None:
    with pytest.raises(UngradableError):
        summarize([group([None])], "x")


class ScriptedGraders:
    """Passes every completion, except for some problems, on which it raises an error."""

    def __init__(self, *fails_at: str) -> None:
        self._fails_at = fails_at

    async def grade(self, problem: Problem, completion: Completion) -> Grade:
        if problem.id in self._fails_at:
            raise UngradableError("no space left on device")
        return grade(1.0)

    def usage(self) -> Usage:
        raise NotImplementedError

    async def close(self) -> None: ...


def test_every_problem_is_sampled_with_its_own_seeds() -> None:
    problems = [problem(str(number)) for number in range(3)]
    samplers = FakeSamplerPool(lambda *_: "x")
    done = []
    groups = asyncio.run(
        sample_and_grade(
            problems,
            {one.id: Prompt(problem_id=one.id, text="", token_ids=(1,)) for one in problems},
            samplers=samplers,
            graders=ScriptedGraders(),
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


METRICS = {"reward": 0.5, "pass_rate": 0.5, "frac_zero_std": 0.0}
SAMPLING = Sampling(temperature=0.8, max_completion_tokens=8)


@pytest.mark.parametrize(
    ("changes", "greedy"),
    [
        ({}, False),
        ({"temperature": 0.0}, True),
        ({"temperature": 1e-6}, True),
        ({"top_k": 1}, True),
        ({"min_p": 1.0}, True),
        ({"top_p": 1e-9}, True),
        ({"top_k": 2, "top_p": 0.9, "min_p": 0.5}, False),
    ],
)
def test_equal_completions_are_sampled_once_and_counted_once(changes: dict[str, Any], greedy: bool) -> None:
    lines: list[str] = []
    assert num_distinct(replace(SAMPLING, **changes), 8, lines.append) == (1 if greedy else 8)
    assert len(lines) == greedy
    assert num_distinct(replace(SAMPLING, **changes), 1, lines.append) == 1 and len(lines) == greedy


def evaluated(config: Config, monkeypatch: pytest.MonkeyPatch, *fails_at: str) -> tuple[int, dict[str, Any]]:
    """``caravan eval`` of three problems with fake samplers and graders; returns its exit code and result."""
    problems = tuple(problem(str(number)) for number in range(3))
    prompts = {one.id: Prompt(problem_id=one.id, text="", token_ids=(1,)) for one in problems}

    async def dataset(*_: object, **__: object) -> Dataset:
        return Dataset(training=(), held_out=problems, prompts=prompts, data=RunData([]))

    @asynccontextmanager
    async def pools(*_: object, **__: object) -> AsyncIterator[tuple[Any, Any]]:
        yield FakeSamplerPool(lambda *_: "x"), ScriptedGraders(*fails_at)

    monkeypatch.setattr(tryout, "prepare_toolchain", lambda: None)
    monkeypatch.setattr(
        tryout, "load_and_render", lambda *_: RenderedProblems(loaded=problems, problems=problems, prompts=prompts)
    )
    monkeypatch.setattr(tryout, "ray_cluster", lambda *_: nullcontext(SimpleNamespace(resources=None, num_machines=1)))
    monkeypatch.setattr(tryout, "place_run", lambda config, *_, **__: config)
    monkeypatch.setattr(tryout, "audit_and_split", dataset)
    monkeypatch.setattr(tryout, "samplers_and_graders", pools)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        code = run_to_end(lambda view: tryout.evaluate(config, view, out))
        return code, json.loads(out.read_text())


def test_an_evaluation_reports_lost_problems_in_result_table_and_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = evaluated(load_config(None, environment={}), monkeypatch, "1")
    assert code == LOST_PROBLEMS
    assert (result["num_problems"], result["num_lost_problems"], result["lost_problems"]) == (2, 1, ["1"])
    shown = " ".join("".join(capsys.readouterr()).split())
    assert "1 of 3 problems could not be measured (1: no space left on device)" in shown
    assert "problems without any grade" in shown

    code, result = evaluated(load_config(None, environment={}), monkeypatch)
    assert (code, result["num_lost_problems"], result["lost_problems"]) == (0, 0, [])
    assert "problems without any grade" not in "".join(capsys.readouterr())


@pytest.mark.parametrize("setting", ["evaluation.greedy=true", "evaluation.top_k=1"])
def test_a_greedy_evaluation_has_only_pass_at_1(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [setting, "completions_per_problem=8"]
    _, result = evaluated(load_config(None, settings, environment={}), monkeypatch)
    assert (list(result["pass_at"]), result["num_completions"]) == (["1"], 3)
    _, result = evaluated(load_config(None, settings[1:], environment={}), monkeypatch)
    assert (list(result["pass_at"]), result["num_completions"]) == (["1", "2", "4", "8"], 24)


@pytest.mark.parametrize("lost", [0, 2])
def test_a_run_reports_lost_problems_of_its_evaluation_in_summary_report_and_exit_status(
    lost: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cluster.run.training import Training

    config, folder = load_config(None, environment={}), RunFolder(tmp_path / "r")
    groups = [group([1.0, 0.0]), *[group([None, None])] * lost]
    training = Training(
        config,
        folder,
        Dataset(training=(problem(),), held_out=(), prompts={}, data=RunData([])),
        View(),
        None,  # type: ignore[arg-type]  # an Interruption would install signal handlers
        lambda _: None,
    )
    with folder.opened(config):
        for step, name in enumerate(("before", "after")):
            folder.append_json(folder.evaluation, summarize(groups, name, step).as_row())
        folder.append_json(folder.metrics, {"step": 1, "epoch": 1.0, **METRICS, "num_failed_so_far": float(lost)})
        assert training._finish(1, 1.0) == (LOST_PROBLEMS if lost else 0)
    summary = json.loads(folder.summary.read_text())
    assert (summary["num_lost_problems"], summary["num_failed_completions"]) == (2 * lost, lost)
    shown = " ".join("".join(capsys.readouterr()).split())
    assert shown.count("could not be measured") == (2 if lost else 0)
    assert ("completions were excluded from training" in shown) == bool(lost)


def test_a_comparison_reports_problems_that_could_not_be_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = summarize([replace(group([1.0]), problem=problem(name)) for name in "ab"], "whole")
    partly = summarize(
        [replace(group([1.0]), problem=problem("a")), replace(group([None]), problem=problem("b"))], "partly"
    )
    for name, result in (("first", whole), ("second", partly)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result.as_row()))
    compare_and_report(str(tmp_path / "first.json"), str(tmp_path / "second.json"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "partly: 1 of 2 problems could not be measured" in shown
    assert "whole: " not in shown


def test_the_change_is_shown_only_between_evaluations_of_the_same_problems() -> None:
    one, other = (
        summarize([replace(group([reward]), problem=problem(name))], name) for name, reward in (("x", 0.0), ("y", 1.0))
    )
    headings = [
        [str(column.header) for column in evaluation_table(some, "").columns] for some in ([one, one], [one, other])
    ]
    assert headings == [["", "x", "x", "change"], ["", "x", "y"]]
    assert "different problems" in str(evaluation_table([one, other], "").caption)


def test_a_single_problem_has_no_standard_error() -> None:
    one = summarize([replace(group([1.0, 0.0]), problem=problem("x"))], "one")
    (_, cells) = evaluation_table([one], "").columns
    assert next(iter(cells.cells)) == "0.500 \u00b1 -"


def test_fewer_held_out_problems_than_wanted_are_all_measured_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(None, ["evaluation.num_problems=3"], environment={})
    held_out = [problem(name) for name in "abcd"]
    assert problems_to_evaluate(config, held_out, View()) == held_out[:3]
    assert capsys.readouterr().err == ""
    assert problems_to_evaluate(config, held_out[:2], View()) == held_out[:2]
    assert "evaluation.num_problems=3: only 2 problems are held out" in " ".join(capsys.readouterr().err.split())
