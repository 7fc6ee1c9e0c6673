"""Two evaluations, problem by problem."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.analysis.compare import compare, named_results, read_result
from cluster.cli.main import main
from cluster.errors import RunFolderError
from cluster.ledger.evaluation_result import EvaluationResult
from cluster.loop.evaluation import summarize
from tests.cluster.records import group, problem


def result(name: str, rewards: Mapping[str, Sequence[float]]) -> EvaluationResult:
    """An evaluation with these rewards by problem id."""
    return summarize([replace(group(values), problem=problem(key)) for key, values in rewards.items()], name)


def test_problems_are_paired_by_id_and_others_excluded() -> None:
    first = result("a", {"x": [0.0, 0.0], "y": [0.5, 0.5], "z": [1.0, 1.0]})
    second = result("b", {"y": [0.5, 1.0], "x": [0.0, 1.0], "w": [1.0, 1.0]})
    comparison = compare(first, second)
    assert set(comparison.by_problem) == {"x", "y"}
    assert comparison.num_unpaired == 2
    reward, pass_at_1, solved = comparison.differences
    assert reward.mean == pytest.approx((0.5 + 0.25) / 2)
    assert pass_at_1.mean == pytest.approx(0.5)
    assert solved.mean == 1.0
    assert reward.low <= reward.mean <= reward.high


def test_an_evaluation_equals_itself() -> None:
    evaluation = result("a", {str(number): [0.0, number / 10] for number in range(10)})
    for difference in compare(evaluation, evaluation).differences:
        assert (difference.mean, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_evaluations_without_a_common_problem_are_refused() -> None:
    with pytest.raises(RunFolderError, match="no problem in common"):
        compare(result("a", {"x": [1.0]}), result("b", {"y": [1.0]}))


def test_a_run_gives_its_named_or_its_last_evaluation(tmp_path: Path) -> None:
    rows = [
        {"step": 0, **result("before", {"x": [0.0]}).as_row()},
        {"step": 9, **result("after", {"x": [1.0]}).as_row()},
    ]
    (tmp_path / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_result(f"{tmp_path}:before").reward == 0.0
    assert read_result(str(tmp_path)).name == "after"
    with pytest.raises(RunFolderError, match="no evaluation 'step 3': it has before, after"):
        read_result(f"{tmp_path}:step 3")


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00", '{"by_problem": 1'])
def test_a_file_that_is_not_a_result_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(content)
    with pytest.raises(RunFolderError, match=r"wrong\.json"):
        read_result(str(path))


def test_the_command_shows_both_evaluations_and_the_changed_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps(result("base", {"gcd": [0.0, 0.25], "fib": [1.0, 1.0]}).as_row()))
    second.write_text(json.dumps(result("trained", {"gcd": [1.0, 1.0], "fib": [1.0, 1.0]}).as_row()))
    assert main(["compare", str(first), str(second)]) == 0
    output = capsys.readouterr().out
    assert "base" in output and "trained" in output and "gcd" in output and "fib" not in output
    assert main(["compare", str(first), str(tmp_path / "missing.json")]) == 1
    assert "missing.json" in capsys.readouterr().err


def test_unequal_numbers_of_completions_are_compared_at_the_smallest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = result("few", {"x": [1.0, 0.0], "y": [0.0, 0.0]})
    many = result("many", {"x": [1.0] * 2 + [0.0] * 2, "y": [0.0] * 4})
    *_, solved = compare(few, many).differences
    assert solved.metric == "pass@2"
    assert solved.mean == pytest.approx(((1 - 1 / 6) - 1.0) / 2)  # 2 of 4 pass: in 1 of 6 draws both are wrong
    one = result("one", {"x": [0.0], "y": [1.0]})
    assert [difference.metric for difference in compare(one, many).differences] == ["mean reward", "pass@1"]
    for name, evaluation in (("few", few), ("many", many)):
        (tmp_path / name).write_text(json.dumps(evaluation.as_row()))
    assert main(["compare", str(tmp_path / "few"), str(tmp_path / "many")]) == 0
    assert "the first has 2 completions per problem, the second 4" in capsys.readouterr().out


def test_a_file_without_results_by_problem_is_refused_in_one_line(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    for rows in ({"x": 1.0}, [1.0], [{"id": "x"}]):
        other.write_text(json.dumps({"name": "a", "by_problem": rows}))
        with pytest.raises(RunFolderError, match="has no results by problem"):
            read_result(str(other))


def test_evaluations_of_the_same_name_are_named_after_their_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run, name in (("one", "x"), ("other", "x"), ("elsewhere", "y")):
        (tmp_path / run).mkdir()
        row = {"step": 9, **result("after", {name: [1.0]}).as_row()}
        (tmp_path / run / "evaluation.jsonl").write_text(json.dumps(row) + "\n")
    one, other, elsewhere = (str(tmp_path / run) for run in ("one", "other", "elsewhere"))
    assert [named.name for named in named_results(one, f"{other}:after")] == [f"{one}: after", f"{other}:after"]
    assert main(["compare", one, elsewhere]) == 1
    assert f"{one}: after and {elsewhere}: after have no problem in common" in capsys.readouterr().err
