import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from cluster.errors import DatasetError
from cluster.problems.dataset import ProblemStream, load_problems, read_rows, split
from tests.cluster.records import problem

PROMPT = "(** Twice a number.\n * >>> twice 2\n * 4\n *)\nlet twice (n : int) : int ="
TESTS = "let () =\n  assert (twice 2 = 4);\n  assert (twice 0 = 0)"
ROW = {"id": "twice", "prompt": PROMPT, "tests": TESTS}
REAL = Path(__file__).parents[3].parent / "shared" / "data" / "ocaml_problems.jsonl"


def write_jsonl(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_jsonl_csv_and_parquet_give_the_same_problems(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [ROW, {**ROW, "id": "007"}]
    write_jsonl(tmp_path / "p.jsonl", [*rows])
    with (tmp_path / "p.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ROW.keys())
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    loaded = [load_problems(str(tmp_path / f"p.{end}")).problems for end in ("jsonl", "csv", "parquet")]
    assert loaded[0] == loaded[1] == loaded[2]
    assert [one.id for one in loaded[0]] == ["twice", "007"]
    assert loaded[0][0].signature == "let twice (n : int) : int ="


def test_other_column_names_are_accepted() -> None:
    row = {"id": 3, "problem": PROMPT, "tests": TESTS, "solution": "let twice n = 2 * n", "difficulty": "easy"}
    (one,) = read_rows([row]).problems
    assert (one.id, one.difficulty, one.solution) == ("3", "easy", "let twice n = 2 * n")
    (second,) = read_rows([{"id": 4, "question": PROMPT, "tests": TESTS}]).problems
    assert second.prompt == PROMPT


def test_bad_rows_are_reported_and_counted_and_the_others_are_kept(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "p.jsonl",
        [
            ROW,
            ROW,
            "{not json",
            "[1, 2]",
            {**ROW, "id": "empty", "tests": " "},
            {**ROW, "id": "x", "tests": "()"},
            {**ROW, "id": ""},
            {**ROW, "id": "half", "prompt": "\ud83d" + str(ROW["prompt"])},
            {**ROW, "id": "\ud83d"},
        ],
    )
    loaded = load_problems(str(path))
    assert [one.id for one in loaded.problems] == ["twice"]
    assert [bad.split(":")[0] for bad in loaded.bad_rows] == [f"row {number}" for number in range(2, 10)]
    assert "duplicate id 'twice'" in loaded.bad_rows[0]
    assert loaded.describe_bad_rows(num_shown=1).startswith("8 bad rows are skipped: row 2: duplicate")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '{"id": "a", "prompt": "let f x ="}\n', "no column 'tests'"),
        ("p.jsonl", "", "no usable problem: it is empty"),
        ("p.jsonl", '{"id": "a", "prompt": "let f x =", "tests": ""}\n', "no usable problem"),
        ("p.parquet", "not parquet", "cannot be read"),
        ("p.txt", "", "must end in .csv, .tsv, .jsonl"),
    ],
)
def test_an_unusable_file_is_refused_with_its_cause(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        load_problems(str(path))


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(DatasetError, match="no such file"):
        load_problems("nowhere.jsonl")


def test_the_split_depends_on_the_problems_not_on_their_order() -> None:
    problems = [problem(str(number)) for number in range(20)]
    training, held_out = split(problems, 5, seed=0)
    assert (training, held_out) == split(problems[::-1], 5, seed=0)
    assert len(held_out) == 5
    assert not {one.id for one in training} & {one.id for one in held_out}
    assert split(problems, 5, seed=1)[1] != held_out


def test_a_split_without_training_problems_is_refused() -> None:
    with pytest.raises(DatasetError, match="leaves no training problems"):
        split([problem()], 1, seed=0)


def test_every_epoch_is_a_new_shuffle_of_all_problems() -> None:
    stream = ProblemStream([problem(str(number)) for number in range(10)], seed=0)
    first, second = ([stream.at(position).id for position in range(start, start + 10)] for start in (0, 10))
    assert set(Counter(first).values()) == set(Counter(second).values()) == {1}
    assert first != second
    assert [stream.at(position).id for position in range(10)] == first


def test_every_row_of_the_real_data_set_loads() -> None:
    if not REAL.exists():
        pytest.skip("the shared data set is not next to the repository")
    loaded = load_problems(str(REAL))
    assert len(loaded.problems) == 281
    assert not loaded.bad_rows
    assert all(one.signature.startswith("let ") and one.signature.rstrip().endswith("=") for one in loaded.problems)
