import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from cluster.cli.main import main
from cluster.errors import DatasetError
from cluster.problems.audit import audit_dataset
from grader.settings import GraderSettings

QUICK = GraderSettings(assert_cpu_seconds=0.1, run_cpu_seconds=0.6, compile_cpu_seconds=2.0)
PROMPT = "(** Next. *)\nlet f (x : int) : int ="
SOUND = "let () = assert (f 1 = 2); assert (f 2 = 3); assert (f 5 = 6)"
BROKEN = "let () = assert (f 1 = two)"


def row(identifier: object, tests: str = SOUND, **more: object) -> dict[str, object]:
    return {"id": identifier, "prompt": PROMPT, "tests": tests, **more}


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


MIXED: list[object] = [
    {"id": "first", "prompt": PROMPT},  # the first row lacks its tests: the others have them
    row("a"),
    row(7, BROKEN),
    "{not json",
    "",
    row("no assert", "let () = ()"),
    {"id": "no signature", "prompt": "(** Next. *)", "tests": SOUND},
    row("a", SOUND.replace("6", "7")),
    {"prompt": PROMPT, "tests": SOUND},
]


def test_every_row_gets_its_result_in_the_order_of_the_data(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.jsonl"
    seen: list[tuple[int, int]] = []
    summary = audit_dataset(
        str(write(tmp_path / "in.jsonl", MIXED)),
        out,
        settings=QUICK,
        num_workers=2,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    rows = read(out)
    assert all(list(one) == ["id", "passable", "causes", "warnings"] for one in rows)
    assert [(one["id"], one["passable"]) for one in rows] == [
        ("first", False),
        ("a", True),
        (7, False),
        (None, False),
        ("no assert", False),
        ("no signature", False),
        ("a", True),
        (None, False),
    ]
    codes = [[cause.partition(":")[0] for cause in one["causes"]] for one in rows]
    assert codes == [
        ["malformed_row"],
        [],
        ["tests_do_not_type_check"],
        ["malformed_row"],
        ["no_assert"],
        ["no_signature"],
        [],
        ["malformed_row"],
    ]
    assert rows[6]["warnings"][0].startswith("duplicate_id: 'a': row 2 has the same id and other content")
    assert seen[-1] == (8, 8)
    assert (summary.num_unsolvable, summary.causes["malformed_row"]) == (6, 3)


def test_parquet_and_jsonl_have_the_same_rows(tmp_path: Path) -> None:
    source = str(write(tmp_path / "in.jsonl", MIXED))
    for name in ("out.jsonl", "out.parquet"):
        audit_dataset(source, tmp_path / name, settings=QUICK, num_workers=1)
    expected = read(tmp_path / "out.jsonl")
    expected[2]["id"] = "7"
    assert parquet.read_table(tmp_path / "out.parquet").to_pylist() == expected


def test_other_column_names_are_audited_too(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f'task_id,question,test,canonical_solution\nt1,"{PROMPT}","{SOUND}",let f x = x\n')
    out = tmp_path / "out.jsonl"
    audit_dataset(str(source), out, settings=QUICK, num_workers=1)
    assert read(out) == [
        {"id": "t1", "passable": True, "causes": [], "warnings": ["reference_fails: 0 of 3 asserts pass"]}
    ]


def test_a_table_names_causes_and_warnings_and_the_command_succeeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "in.jsonl", [row("good"), row("bad", BROKEN), row("again")])
    assert main(["audit", str(source), "--out", str(tmp_path / "out.jsonl"), "--workers", "1"]) == 0
    shown = capsys.readouterr().out
    assert "tests_do_not_type_check" in shown
    assert "near_duplicate" in shown
    assert "3 rows: 2 solvable, 1 unsolvable" in shown


@pytest.mark.parametrize(
    ("name", "match"), [("in.jsonl", "would be overwritten"), ("out.csv", "must end in .jsonl or .parquet")]
)
def test_an_unusable_output_file_is_refused_before_the_audit(tmp_path: Path, name: str, match: str) -> None:
    source = write(tmp_path / "in.jsonl", [row("good")])
    with pytest.raises(DatasetError, match=match):
        audit_dataset(str(source), tmp_path / name, settings=QUICK)
    assert len(read(source)) == 1


def test_an_interrupted_audit_keeps_the_finished_rows(tmp_path: Path) -> None:
    slow = (
        "let () = assert (f 1 = 2); assert (let rec wait n = if n = 0 then f 1 = 0 else wait (n - 1) in wait 40000000)"
    )
    source = write(tmp_path / "in.jsonl", [row(f"r{i}", slow) for i in range(2000)])
    out = tmp_path / "out.jsonl"
    arguments = ["audit", str(source), "--out", str(out), "--workers", "1"]
    child = subprocess.Popen(
        [sys.executable, "-c", f"import sys; from cluster.cli.main import main; sys.exit(main({arguments!r}))"],
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and not (out.exists() and out.read_text().count("\n") >= 3):
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGINT)
        shown, _ = child.communicate(timeout=120)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 130
    assert "interrupted" in shown
    assert 3 <= len(read(out)) < 2000


def test_an_audit_imports_neither_ray_nor_torch() -> None:
    heavy = ("ray", "torch", "vllm", "trl", "transformers")
    script = f"import sys, cluster.problems.audit_report; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_builtin_problem_has_a_cause_or_refutes_one(tmp_path: Path) -> None:
    # Training relies on this test, because it does not audit the built-in problems.
    summary = audit_dataset("builtin", tmp_path / "out.jsonl", settings=QUICK)
    assert summary.num_audited == summary.num_rows > 1000
    assert (summary.num_unsolvable, summary.num_ungradable) == (0, 0)
    assert not set(summary.warnings) & {"refuted_cause", "reference_fails", "example_disagrees", "stub_passes"}


def test_malformed_rows_are_reported_with_their_reasons_and_the_status_stays_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "a",\n "prompt": "p"}\n{"id": "b", "prompt": "let f x =", "tests": 7}\n')
    assert main(["audit", str(tmp_path / "in.jsonl"), "--workers", "1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 malformed: row 1: lines 1 to 2 are one JSON object" in shown and "; row 2: the tests are" in shown


def test_a_data_set_that_is_missing_is_reported_as_it_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", str(tmp_path / "missing.jsonl")]) == 1
    assert capsys.readouterr().err.endswith(f"caravan: data set {tmp_path / 'missing.jsonl'}: no such file\n")
