"""Tests of the file types and folders that a data set may have."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config.dataset_part import Part
from cluster.errors import DatasetError
from cluster.problems.dataset import load_problems, read_rows
from cluster.problems.dataset_files import read_file

Rows = Sequence[Mapping[str, Any]]


def row(name: object = "twice", **others: object) -> dict[str, Any]:
    return {
        "id": name,
        "prompt": '(** Twice; say "2", | or\ttabs.\n * >>> twice 2\n * 4\n *)\nlet twice (n : int) : int =',
        "tests": 'let () =\n  assert (twice 2 = 4);\n  assert (String.length "a,;|\u2028" = 7)',
        "solution": "let twice (n : int) : int =\n  2 * n",
        **others,
    }


ROWS = [row("twice"), row("007", prompt="let \u00e9t (n : int) : int ="), row("a/b \u2192 c")]


def jsonl(rows: Rows) -> str:
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)


def as_csv(rows: Rows, separator: str = ",", lines: str = "\r\n") -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text,
        rows[0].keys(),
        delimiter=separator,
        lineterminator=lines,
        quoting=csv.QUOTE_ALL
        if lines == "\r"
        else csv.QUOTE_MINIMAL,  # QUOTE_MINIMAL leaves "\n" bare if lines end in "\r"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def parquet(rows: Rows, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([dict(one) for one in rows]), path)


def columns(rows: Rows) -> dict[str, list[Any]]:
    return {name: [one[name] for one in rows] for name in rows[0]}


FORMS: Mapping[str, Callable[[Rows], bytes]] = {
    "p.jsonl": lambda rows: jsonl(rows).encode(),
    "p.ndjson": lambda rows: jsonl(rows).encode("utf-8-sig"),
    "crlf.jsonl": lambda rows: jsonl(rows).replace("\n", "\r\n").encode(),
    "utf16.jsonl": lambda rows: jsonl(rows).encode("utf-16"),
    "p.jsonl.gz": lambda rows: gzip.compress(jsonl(rows).encode()),
    "packed.jsonl": lambda rows: gzip.compress(jsonl(rows).encode()),
    "p.jsonl.bz2": lambda rows: bz2.compress(jsonl(rows).encode()),
    "p.jsonl.xz": lambda rows: lzma.compress(jsonl(rows).encode()),
    "p.json": lambda rows: json.dumps(rows, indent=2).encode(),
    "list.jsonl": lambda rows: json.dumps(rows).encode(),
    "p.json.gz": lambda rows: gzip.compress(json.dumps({"version": 1, "data": rows}).encode()),
    "lines.json": lambda rows: jsonl(rows).encode(),
    "columns.json": lambda rows: json.dumps(columns(rows)).encode(),
    "pandas.json": lambda rows: json.dumps(
        {name: dict(enumerate(cells)) for name, cells in columns(rows).items()}
    ).encode(),
    "p.csv": lambda rows: as_csv(rows).encode("utf-8-sig"),
    "cr.csv": lambda rows: (as_csv(rows, lines="\r") + "\r,,,\r").encode(),
    "lf.csv": lambda rows: as_csv(rows, lines="\n").encode(),
    "semicolon.csv": lambda rows: as_csv(rows, ";").encode(),
    "excel.csv": lambda rows: b"sep=;\r\n" + as_csv(rows, ";").encode(),
    "pipe.csv": lambda rows: as_csv(rows, "|").encode(),
    "utf16.csv": lambda rows: as_csv(rows, "\t").encode("utf-16"),
    "p.tsv": lambda rows: as_csv(rows, "\t").encode(),
    "p.CSV.gz": lambda rows: gzip.compress(as_csv(rows).encode()),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_file_gives_the_same_problems(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FORMS[name](ROWS))
    assert load_problems(str(path)) == read_rows(ROWS)


def test_parquet_and_arrow_files_have_the_same_problems(tmp_path: Path) -> None:
    import datasets
    import pyarrow as pa
    import pyarrow.feather

    folder = tmp_path / "a=b"  # must not become a column
    folder.mkdir()
    parquet(ROWS, folder / "p.parquet")
    pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), folder / "p.arrow", compression="uncompressed")
    binary = [{name: text.encode() for name, text in one.items()} for one in ROWS]
    parquet(binary, folder / "binary.parquet")
    for name in ("p.parquet", "p.arrow", "binary.parquet"):
        assert load_problems(str(folder / name)) == read_rows(ROWS)
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert load_problems(str(tmp_path / "saved")) == read_rows(ROWS)
    with pytest.raises(DatasetError, match=r"data.split=test has no effect"):
        load_problems(str(tmp_path / "saved"), Part(split="test"))
    datasets.DatasetDict(test=datasets.Dataset.from_list(ROWS)).save_to_disk(str(tmp_path / "splits"))
    assert load_problems(str(tmp_path / "splits"), Part(split="test")) == read_rows(ROWS)
    with pytest.raises(DatasetError, match=r"has no split 'train'; it has test: choose one with data.split=NAME"):
        load_problems(str(tmp_path / "splits"))


TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="\ufeff"), max_size=20)


@settings(max_examples=25, deadline=None)
@given(notes=st.lists(TEXT, min_size=1, max_size=4))
def test_any_text_survives_a_conversion_to_another_file_type(
    tmp_path_factory: pytest.TempPathFactory, notes: list[str]
) -> None:
    rows = [row(number, tests=f"(* {note} *) assert (twice 1 = 2)") for number, note in enumerate(notes)]
    folder = tmp_path_factory.mktemp("forms")
    expected = read_rows(rows)
    for name in ("p.jsonl", "p.json", "p.csv", "p.tsv", "semicolon.csv", "utf16.csv"):
        (folder / name).write_bytes(FORMS[name](rows))
        assert load_problems(str(folder / name)) == expected, name


def test_numbers_are_the_same_ids_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(jsonl([row(1), row(2.0), row("3")]))
    (tmp_path / "p.csv").write_text(as_csv([row(1), row(2), row(3)]))
    parquet([row(1.0), row(2.0), row(3.0)], tmp_path / "p.parquet")
    for name in ("p.jsonl", "p.csv", "p.parquet"):
        assert [one.id for one in load_problems(str(tmp_path / name)).problems] == ["1", "2", "3"]


def bad_rows(path: Path) -> list[str]:
    loaded = load_problems(str(path))
    assert [one.id for one in loaded.problems] == ["first", "last"]
    return list(loaded.bad_rows)


def test_bad_rows_of_csv_are_reported_and_the_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    good = [f'{name},"let f x =",assert (f 1 = 1)' for name in ("first", "last")]
    path.write_text(
        "\n".join(["id,prompt,tests", good[0], "a,b,c,d", "x,let f x =", 'y,"let" f,assert', "", f"{good[1]},,"])
    )
    many, few, quote = bad_rows(path)
    assert many == "row 2: 4 cells, but the first line names 3 columns: does a cell contain an unquoted separator?"
    assert few == "row 3: no tests (id 'x')"
    assert quote.startswith("row 4: line 5: ") and "expected" in quote
    path.write_text(f'id,prompt,tests\n{good[0]}\n{good[1]}\nz,"let f x =\n,assert\n')
    (unclosed,) = bad_rows(path)
    assert unclosed == "row 3: lines 4 to 5: a quote that opens there is never closed"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "id,prompt,tests\n", "no usable problem: it is empty"),
        ("p.csv", "", "it is empty"),
        ("p.csv", "a,let f x =,assert (f 1 = 1)\nb,let f x =,assert (f 1 = 1)\n", "no column 'id'"),
        ("p.csv", "id,id,prompt,tests\na,b,c,d\n", "2 columns named 'id'"),
        ("p.csv", 'id,"pro"mpt,tests\na,b,c\n', "first line, which should name the columns, is malformed"),
        (
            "p.csv",
            "id,prompt,tests\na,caf\u00e9,c\n".encode("latin-1"),
            r"line 2 contains the byte 0xe9, which is not UTF-8",
        ),
        ("p.jsonl", "caf\u00e9\n".encode("latin-1"), "not UTF-8"),
        ("p.jsonl", jsonl(ROWS).encode("utf-16-le"), "UTF-16 without a byte order mark"),
        ("p.jsonl.gz", jsonl(ROWS), "its content is not compressed"),
        ("p.jsonl.gz", gzip.compress(jsonl(ROWS).encode())[:-20], "cannot be read"),
        ("p.json", '{"a": 1}', "an object without rows \\(keys a\\)"),
        ("p.json", '[{"id": 1},', "not JSON: .* line 1 column"),
        ("p.json", "3", "no usable problem"),
        ("p.json", json.dumps({"id": ["a"], "prompt": [], "tests": []}), "columns are of different lengths"),
        ("p.jsonl", '{"id": NaN, "prompt": "let f x =", "tests": "assert true"}', r"no id \(it is NaN\)"),
        ("p.jsonl", '{"id": true, "prompt": "let f x =", "tests": "assert true"}', "the id is True, a boolean"),
        ("p.jsonl", '{"id": [1], "prompt": "let f x =", "tests": "assert true"}', "the id is a list of 1"),
        ("p.parquet", "PAR1", "cannot be read"),
        ("p.arrow", "ARROW1", "cannot be read"),
        ("p.parquet.gz", b"", "must end in"),
    ],
)
def test_the_error_of_an_unreadable_file_has_one_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetError, match=message) as error:
        load_problems(str(path))
    assert "\n" not in str(error.value)


def test_repeated_ids_and_copies_have_different_messages() -> None:
    loaded = read_rows([row("a"), row("a"), row("a", tests="assert (twice 1 = 2)")])
    assert loaded.bad_rows == (
        "row 2: duplicate id 'a': a copy of row 1",
        "row 3: duplicate id 'a': row 1 has the same id and other content; give each row its own id",
    )


@pytest.mark.parametrize("key", ["split", "config", "revision"])
def test_keys_without_effect_are_refused_by_name(tmp_path: Path, key: str) -> None:
    (tmp_path / "p.jsonl").write_text(jsonl(ROWS))
    part = Part(**{key: "x"})
    for dataset in (str(tmp_path / "p.jsonl"), "builtin"):
        with pytest.raises(DatasetError, match=f"data.{key}=x has no effect"):
            load_problems(dataset, part)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        (tmp_path / "data").mkdir(exist_ok=True)
        parquet([row(f"{split}-{shard}") for shard in (0, 1)], tmp_path / f"data/{split}-00000-of-00001.parquet")
    return tmp_path


def ids(dataset: Path, part: Part) -> list[str]:
    return [one.id for one in load_problems(str(dataset), part).problems]


def test_a_folder_in_the_layout_of_the_hub_is_read_by_split(folder: Path) -> None:
    assert ids(folder, Part()) == ["train-0", "train-1"]
    assert ids(folder, Part(split="test")) == ["test-0", "test-1"]
    with pytest.raises(DatasetError, match=r"no split 'dev'; it has train, test"):
        ids(folder, Part(split="dev"))
    with pytest.raises(DatasetError, match=r"no configuration 'x'; it has default"):
        ids(folder, Part(config="x"))
    with pytest.raises(DatasetError, match=r"data.revision=x has no effect"):
        ids(folder, Part(revision="x"))


def test_a_folder_with_configurations_is_read_by_configuration(tmp_path: Path) -> None:
    for name in ("easy", "hard"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text(jsonl([row(name)]) + "no json\n")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/rows.jsonl\n" for name in ("easy", "hard"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert ids(tmp_path, Part(config="hard")) == ["hard"]
    with pytest.raises(DatasetError, match=r"several configurations; it has easy, hard: choose one with data.config"):
        ids(tmp_path, Part())


def test_all_files_of_a_folder_are_read_and_files_without_split_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(jsonl([row("a")]) + "no json\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl([row("b")]).encode()))
    (tmp_path / "c.tsv").write_text("id\n")
    loaded = load_problems(str(tmp_path))
    assert [one.id for one in loaded.problems] == ["a", "b"]
    assert [bad.partition(": ")[2][:20] for bad in loaded.bad_rows] == ["not JSON: Expecting ", "c.tsv is not read: i"]


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/README.md").write_text("---\nconfigs: [\n---\n")
    (tmp_path / "broken/p.jsonl").write_text(jsonl(ROWS))
    with pytest.raises(DatasetError, match=r"broken cannot be read"):
        load_problems(str(tmp_path / "broken"))
    (tmp_path / "broken/p.jsonl").unlink()
    (tmp_path / "broken/README.md").unlink()
    with pytest.raises(DatasetError, match="doesn't contain any data files"):
        load_problems(str(tmp_path))


class FakeHub:
    """The functions of the datasets library that read from the hub."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.requests: list[tuple[str | None, ...]] = []  # path, configuration, split, revision

    def load_dataset(self, path: str, name: str | None, *, split: str, revision: str | None) -> list[Any]:
        self.requests.append((path, name, split, revision))
        if self.error:
            raise self.error
        return ROWS

    def get_dataset_split_names(self, *_: object, **__: object) -> list[str]:
        return ["test", "validation"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    import datasets

    fake = FakeHub()
    monkeypatch.setattr("cluster.problems.dataset_sources.unreachable_reason", lambda: None)
    for name in ("load_dataset", "get_dataset_split_names"):
        monkeypatch.setattr(datasets, name, getattr(fake, name))
    return fake


def test_split_configuration_and_revision_reach_the_hub(hub: FakeHub) -> None:
    load_problems("some/set")
    load_problems("some/set", Part(split="test", config="hard", revision="v2"))
    assert hub.requests == [("some/set", None, "train", None), ("some/set", "hard", "test", "v2")]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError('Unknown split "train". Should be one of [...].'), "no split 'train'; it has test, validation"),
        (
            ValueError("Config name is missing.\nPlease pick one among ['a', 'b']"),
            "several configurations; it has a, b",
        ),
        (ValueError("BuilderConfig 'x' not found. Available: ['a']"), "no configuration 'x'; it has a"),
        (ConnectionError("Couldn't reach 'some/set' on the Hub"), "is there a network"),
        (RuntimeError("Dataset scripts are no longer supported"), "scripts are no longer supported"),
        (FileNotFoundError("no (supported) data files"), "supported"),
    ],
)
def test_errors_of_the_hub_are_reported_with_their_cause(hub: FakeHub, error: Exception, message: str) -> None:
    hub.error = error
    with pytest.raises(DatasetError, match=message) as raised:
        load_problems("some/set")
    assert ("is there a network" in str(raised.value)) == isinstance(error, ConnectionError)


def test_json_of_splits_or_of_columns_is_read_by_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"train": [{"id": "a"}], "test": [{"id": "b"}, {"id": "c"}]}))
    assert read_file(path, ("id", "test")) == [{"id": "a"}]
    path.write_text(json.dumps({"id": {"0": "a", "1": "b"}, "prompt": {"1": "B", "0": "A"}}))
    assert read_file(path, ("id", "prompt")) == [{"id": "a", "prompt": "A"}, {"id": "b", "prompt": "B"}]
    path.write_text(json.dumps({"id": {"0": "a"}, "prompt": {"1": "B"}}))
    with pytest.raises(DatasetError, match="different row numbers"):
        read_file(path, ("id", "prompt"))


def test_an_object_over_several_lines_is_reported_as_such_and_the_others_are_read(tmp_path: Path) -> None:
    good = json.dumps(ROWS[0])
    text = f"{good}\n{json.dumps(ROWS[1], indent=2)}\n{{broken\n{json.dumps({**ROWS[0], 'id': 'last'})}\n"
    (tmp_path / "p.jsonl").write_text(text)
    first, spanning, broken, last = read_file(tmp_path / "p.jsonl")
    assert isinstance(first, dict) and isinstance(last, dict) and last["id"] == "last"
    num_lines = len(json.dumps(ROWS[1], indent=2).splitlines())
    assert str(spanning).startswith(f"lines 2 to {1 + num_lines} are one JSON object: write each object on one line")
    assert str(broken).startswith("not JSON")
