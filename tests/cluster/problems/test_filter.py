"""Tests of ``caravan filter``."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import main
from cluster.errors import DatasetError
from cluster.problems.dataset import load_problems
from cluster.problems.filter import Criteria, Selection, read_pass_rates, read_solvable, select_rows


def row(name: str | int, length: int = 1) -> dict[str, Any]:
    statement = "(** " + "Adds. " * length + "*)"
    return {
        "id": name,
        "prompt": f"{statement}\nlet add (a : int) (b : int) : int =",
        "tests": "assert (add 1 2 = 3)",
        "more": [1],
    }


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    path = tmp_path / "problems.jsonl"
    rows = [row("easy"), row("middle"), row("hard"), row("long", 100), row("new"), {"id": "bad"}, row("easy")]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows) + "no json\n")
    return str(path)


RATES = {"easy": 1.0, "middle": 0.5, "hard": 0.0, "long": 0.5}


def kept(selection: Selection) -> list[Any]:
    return [one["id"] for one in selection.rows]


def test_rows_are_kept_unchanged_except_bad_rows_and_repeated_ids(dataset: str) -> None:
    found = select_rows(dataset, Criteria())
    assert kept(found) == ["easy", "middle", "hard", "long", "new"]
    assert found.rows[0] == row("easy")
    assert found.excluded == {"bad row": 3}


def test_pass_rates_exclude_too_hard_too_easy_and_unmeasured_problems(dataset: str) -> None:
    found = select_rows(dataset, Criteria(pass_rates=RATES, min_pass=0.1, max_pass=0.9))
    assert kept(found) == ["middle", "long"]
    assert found.excluded == {"too easy": 1, "too hard": 1, "not measured": 1, "bad row": 3}


def test_bounds_are_inclusive(dataset: str) -> None:
    assert kept(select_rows(dataset, Criteria(pass_rates=RATES, min_pass=0.5, max_pass=1.0))) == [
        "easy",
        "middle",
        "long",
    ]


def test_prompt_length_and_audit_exclude_problems(dataset: str) -> None:
    assert "long" not in kept(select_rows(dataset, Criteria(max_prompt_chars=200)))
    audited = {"easy": True, "middle": False}
    found = select_rows(dataset, Criteria(solvable=audited))
    assert kept(found) == ["easy"]
    assert found.excluded["not audited"] == 3


def test_the_output_loads_as_a_data_set_in_either_file_type(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = tmp_path / "rates.json"
    measured = [{"id": key, "num_passed": int(4 * value), "num_completions": 4} for key, value in RATES.items()]
    rates.write_text(json.dumps({"by_problem": measured}))
    for name in ("kept.jsonl", "kept.parquet"):
        out = tmp_path / name
        assert main(["filter", dataset, "--out", str(out), "--eval", str(rates), "--min-pass", "0.1"]) == 0
        assert [one.id for one in load_problems(str(out)).problems] == ["easy", "middle", "long"]
    assert "1 excluded: too hard" in capsys.readouterr().out


def test_the_built_in_problems_can_be_filtered(tmp_path: Path) -> None:
    out = tmp_path / "short.jsonl"
    assert main(["filter", "builtin", "--out", str(out), "--max-prompt-chars", "150"]) == 0
    short, whole = load_problems(str(out)).problems, load_problems("builtin").problems
    assert list(short) == [one for one in whole if len(one.prompt) <= 150]


def test_numeric_ids_are_found_in_measurements(tmp_path: Path) -> None:
    dataset, audit, rates = tmp_path / "p.jsonl", tmp_path / "audit.jsonl", tmp_path / "rates.json"
    dataset.write_text(json.dumps(row(7)))
    audit.write_text(json.dumps({"id": 7, "passable": True}))
    rates.write_text(json.dumps({"by_problem": [{"id": 7, "num_passed": 1, "num_completions": 2}]}))
    wanted = Criteria(solvable=read_solvable(audit), pass_rates=read_pass_rates(rates), min_pass=0.5)
    assert kept(select_rows(str(dataset), wanted)) == [7]


def test_the_data_set_itself_is_never_overwritten(dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = Path(dataset).read_text()
    assert main(["filter", dataset, "--out", dataset, "--max-prompt-chars", "200"]) == 2
    assert "the data set itself" in capsys.readouterr().err
    assert Path(dataset).read_text() == before


def test_a_file_that_exists_is_not_overwritten(
    dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kept.jsonl"
    out.write_text("mine")
    assert main(["filter", dataset, "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err and out.read_text() == "mine"


def test_bad_rows_are_reported(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["filter", dataset, "--out", str(tmp_path / "kept.jsonl")]) == 0
    message = capsys.readouterr().out
    assert "row 6: no prompt" in message and "row 7: duplicate id 'easy'" in message and "row 8: not JSON" in message


def test_without_kept_rows_no_file_is_written(dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "kept.jsonl"
    assert main(["filter", dataset, "--out", str(out), "--max-prompt-chars", "1"]) == 1
    assert not out.exists()
    assert "no row of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--out", "x.csv"], "must end in"),
        (["--out", "x.jsonl", "--min-pass", "0.5"], "need --eval"),
        (["--out", "/no/such/place/x.jsonl"], "cannot write"),
    ],
)
def test_impossible_options_are_refused_with_the_reason(
    dataset: str, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    assert main(["filter", dataset, *arguments]) in (1, 2)
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"by_problem": [{"id": "x"}]}', '{"by_problem": 3}'])
def test_files_without_measurements_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rates.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=r"rates\.json"):
        read_pass_rates(path)
    with pytest.raises(DatasetError, match=r"rates\.json"):
        read_solvable(path)


def test_a_problem_that_could_not_be_audited_counts_as_unsolvable(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"id": "a", "passable": true}\n{"id": "b", "passable": null}\n')
    assert read_solvable(path) == {"a": True, "b": False}
