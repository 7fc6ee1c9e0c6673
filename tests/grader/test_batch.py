import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.main import main
from cluster.errors import DatasetError
from grader.batch import grade_file
from grader.console import grade_with_progress
from grader.process import StartFailed
from grader.rows import parse_row
from grader.settings import ThoughtTokenSettings

from .conftest import QUICK
from .problems import TWICE
from .test_containment import descendants

RIGHT, WRONG, LOOP = "let twice x = x + x", "let twice x = x", "let rec twice x = twice x"


def row(identifier: object, completion: str, **more: object) -> dict[str, object]:
    return {"id": identifier, "prompt": TWICE.prompt, "tests": TWICE.tests, "completion": completion, **more}


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_results_have_all_fields_and_are_in_input_order(tmp_path: Path, num_workers: int) -> None:
    rows: list[object] = [row("slow", LOOP), *(row(f"r{i % 3}", RIGHT if i % 2 else WRONG) for i in range(20))]
    source = write(tmp_path / "in.jsonl", rows)
    seen: list[tuple[int, int]] = []
    summary = grade_file(
        source,
        tmp_path / "new" / "out.jsonl",
        settings=QUICK,
        num_workers=num_workers,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    out = read(tmp_path / "new" / "out.jsonl")
    assert summary.complete and summary.num_graded == 21
    assert [one["id"] for one in out] == ["slow", *(f"r{i % 3}" for i in range(20))]
    assert out[0]["verdict"] == "timeout"
    assert [one["verdict"] for one in out[1:]] == ["passed" if i % 2 else "wrong" for i in range(20)]
    assert seen == [(i, 21) for i in range(1, 22)]
    assert set(out[2]) == {
        "id",
        "verdict",
        "reward",
        "terms",
        "type_errors",
        "syntax_error",
        "tests_passed",
        "tests_total",
        "asserts",
        "errors",
        "diagnostics",
        "seconds",
        "line",
        "has_end_marker",
        "hit_length_limit",
        "num_code_lines",
        "degenerate",
        "thought_tokens",
    }
    assert out[2]["terms"] == {"structural": 0.0, "type_check": 0.2, "compile": 0.1, "tests": 0.65}
    assert (out[2]["reward"], out[2]["tests_passed"], out[2]["tests_total"]) == (0.95, 4, 4)


def test_a_row_may_name_the_thought_that_its_prompt_opened(tmp_path: Path) -> None:
    rows: list[object] = [row(1, RIGHT, opened_thought="<think>"), row(2, RIGHT, opened_thought=None)]
    rows += [row(3, f"Hm.\n</think>\n{RIGHT}", opened_thought="<think>"), row(4, RIGHT, opened_thought=True)]
    rows += [{**row(5, RIGHT, opened_thought="\n"), "prompt": f"{row(5, RIGHT)['prompt']}\n<think>\n"}]
    summary = grade_file(write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", settings=QUICK, num_workers=1)
    assert [one["verdict"] for one in read(tmp_path / "out.jsonl")] == ["no_code", "passed", "passed", "no_code"]
    assert len(summary.malformed) == 1 and "line 4: opened_thought" in summary.malformed[0]


def test_thought_tokens_are_priced_by_the_tokens_of_a_row(tmp_path: Path) -> None:
    text = f"<think>{'x' * 185}</think>{RIGHT}"
    rows: list[object] = [
        row(1, text, num_tokens=len(text)),
        row(2, text),
        row(3, RIGHT),
        row(4, text, num_tokens="9"),
    ]
    source, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    grade_file(source, out, settings=QUICK, num_workers=1)
    assert [one["thought_tokens"] for one in read(out)] == [200, None, 0]
    priced = QUICK.model_copy(update={"thought_tokens": ThoughtTokenSettings(price=0.5)})
    summary = grade_file(source, out, settings=priced, num_workers=1)
    assert [one["reward"] for one in read(out)] == [pytest.approx(0.85), 0.95]
    assert [
        "line 2: num_tokens is missing" in summary.malformed[0],
        "line 4: num_tokens is '9'" in summary.malformed[1],
    ] == [True] * 2


def test_finish_reason_and_minimum_lines_affect_the_reward(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [row(1, RIGHT, finish_reason="length"), row(2, RIGHT, finish_reason=None)])
    grade_file(source, tmp_path / "out.jsonl", settings=QUICK, num_workers=1)
    assert [one["reward"] for one in read(tmp_path / "out.jsonl")] == [pytest.approx(0.285), 0.95]
    settings = QUICK.model_copy(update={"min_code_lines": 2})
    grade_file(source, tmp_path / "out.jsonl", settings=settings, num_workers=1)
    assert [one["reward"] for one in read(tmp_path / "out.jsonl")] == [0.0, 0.0]


def test_malformed_rows_are_reported_by_line_and_the_others_graded(tmp_path: Path) -> None:
    rows: list[object] = [
        row("a", RIGHT),
        "{not json",
        "",
        "[1]",
        {"id": "b", "prompt": TWICE.prompt, "tests": TWICE.tests},
        row("c", RIGHT, prompt="no signature"),
        row("d", RIGHT, finish_reason="boredom"),
        {**row("e", RIGHT), "completion": 7},
        {key: value for key, value in row("f", RIGHT).items() if key != "id"},
        row("g", WRONG),
    ]
    reported: list[str] = []
    source = write(tmp_path / "in.jsonl", rows)
    summary = grade_file(source, tmp_path / "out.jsonl", settings=QUICK, num_workers=2, on_error=reported.append)
    assert [one["id"] for one in read(tmp_path / "out.jsonl")] == ["a", "g"]
    assert not summary.complete
    assert reported == summary.malformed
    assert [message.split(":")[0] for message in reported] == [f"line {n}" for n in (2, 4, 5, 6, 7, 8, 9)]
    assert "completion is missing" in reported[2] and "no signature" in reported[3] and "boredom" in reported[4]


@pytest.mark.parametrize(
    ("value", "odd"),
    [('"odd"', "1" * 5000), ('"stop"', '{"a": 1}'), ('"stop"', '["stop"]'), ('"stop"', "3")],
    ids=["a number of 5000 digits", "an object", "a list", "a number"],
)
def test_a_value_of_a_wrong_type_makes_only_its_row_malformed(tmp_path: Path, value: str, odd: str) -> None:
    line = json.dumps(row("odd", RIGHT, finish_reason="stop")).replace(value, odd)
    source = write(tmp_path / "in.jsonl", [line, row("b", RIGHT)])
    summary = grade_file(source, tmp_path / "out.jsonl", settings=QUICK, num_workers=1)
    assert len(summary.malformed) == 1 and "line 1" in summary.malformed[0]
    assert [one["id"] for one in read(tmp_path / "out.jsonl")] == ["b"]


def test_a_file_without_rows_and_a_pipe_are_refused_before_the_output_is_touched(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(DatasetError, match="holds no rows"):
        grade_file(write(tmp_path / "in.jsonl", ["", "  "]), out, settings=QUICK)
    with pytest.raises(DatasetError, match="JSONL"):
        grade_file(tmp_path / "in.parquet", out, settings=QUICK)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(DatasetError, match="is a pipe"):
        grade_file(pipe, out, settings=QUICK)
    assert not out.exists()


def test_a_missing_file_and_the_output_itself_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot read"):
        grade_file(tmp_path / "nowhere.jsonl", tmp_path / "out.jsonl", settings=QUICK)
    source = write(tmp_path / "in.jsonl", [row("a", RIGHT)])
    with pytest.raises(DatasetError, match="overwrite"):
        grade_file(source, source, settings=QUICK)
    assert len(read(source)) == 1


def test_a_full_disk_is_reported_in_one_message(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [row("a", RIGHT)] * 3)
    with pytest.raises(DatasetError, match="/dev/full: No space left"):
        grade_file(source, Path("/dev/full"), settings=QUICK, num_workers=1)


def test_the_console_shows_a_summary_and_the_exit_status_is_1_if_a_row_is_malformed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write(tmp_path / "good.jsonl", [row("a", RIGHT), row("b", WRONG)])
    bad = write(tmp_path / "bad.jsonl", [row("a", RIGHT), "{[markup]"])
    assert grade_with_progress(good, tmp_path / "out.jsonl", settings=QUICK, num_workers=1) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "2 graded, mean reward 0.625 (1 passed, 1 wrong)" in " ".join(captured.err.split())
    assert grade_with_progress(bad, tmp_path / "out.jsonl", settings=QUICK, num_workers=1) == 1
    shown = " ".join(capsys.readouterr().err.split())
    assert "line 2: not JSON" in shown and "1 rows malformed and excluded" in shown


def test_ctrl_c_keeps_the_graded_rows_and_leaves_no_process(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [*(row(f"quick{i}", RIGHT) for i in range(5)), *[row("slow", LOOP)] * 60])
    out = tmp_path / "out.jsonl"
    script = (
        "import sys; from pathlib import Path; from grader.batch import grade_file\n"
        "from grader.settings import GraderSettings\n"
        "summary = grade_file(Path(sys.argv[1]), Path(sys.argv[2]), settings=GraderSettings(), num_workers=2)\n"
        "sys.exit(130 if summary.interrupted else 0)\n"
    )
    before = descendants()
    child = subprocess.Popen([sys.executable, "-c", script, str(source), str(out)], start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (out.exists() and out.read_text().count("\n") >= 5):
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGINT)
        assert child.wait(timeout=120) == 130
    finally:
        child.kill()
        child.wait()
    rows = read(out)
    assert 5 <= len(rows) < 65
    assert [one["verdict"] for one in rows[:5]] == ["passed"] * 5
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not descendants() <= before:
        time.sleep(0.05)
    assert descendants() <= before


def test_grading_a_file_imports_neither_ray_nor_torch() -> None:
    heavy = ("ray", "torch", "vllm", "trl", "transformers")
    script = f"import sys, grader.batch; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_grading_process_that_cannot_start_ends_the_command_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(*_arguments: object) -> None:
        raise StartFailed("a grading process does not start: it ends with status 127 (no such thing)")

    monkeypatch.setattr("grader.worker.Server", start)
    source = write(tmp_path / "in.jsonl", [row(f"{number}", RIGHT) for number in range(50)])
    for command in (["grade", str(source), "--out", str(tmp_path / "out.jsonl")], ["audit", str(source)]):
        assert main([*command, "--workers", "2"]) == 1
        shown = capsys.readouterr().err
        assert shown.splitlines()[-1].startswith("caravan: a grading process does not start: it ends with status 127")
        assert "could not be graded" not in shown and shown.count("status 127") == 1


def crlf(text: str) -> str:
    return text.replace("\n", "\r\n")


CHAT = [{"role": "user", "content": TWICE.prompt}, {"role": "assistant", "content": RIGHT}]


@pytest.mark.parametrize(
    "others",
    [
        {"prompt": CHAT[:1]},
        {"completion": CHAT},
        {"tests": ["assert (twice 1 = 2)", "assert (twice 2 = 4)"]},
        {"prompt": f"Complete it.\n```ocaml\n{TWICE.prompt}\n```"},
        {"prompt": f'{TWICE.prompt}\n  failwith "TODO"'},
        {"prompt": crlf(TWICE.prompt), "tests": crlf(TWICE.tests + "\n"), "completion": crlf(RIGHT)},
        {"prompt": TWICE.prompt.replace("\n", "\r"), "tests": TWICE.tests.replace("\n", "\r")},
        {"tests": TWICE.tests.replace(" ", "\u00a0"), "completion": RIGHT.replace("\n", "\u2028")},
    ],
    ids=["chat prompt", "chat completion", "list", "fence", "placeholder", "crlf", "cr", "unicode"],
)
def test_rows_in_other_formats_get_the_same_grades(tmp_path: Path, others: dict[str, object]) -> None:
    source = write(tmp_path / "in.jsonl", [row("plain", RIGHT), {**row("other", RIGHT), **others}])
    grade_file(source, tmp_path / "out.jsonl", settings=QUICK, num_workers=1)
    assert [(one["id"], one["verdict"]) for one in read(tmp_path / "out.jsonl")] == [
        ("plain", "passed"),
        ("other", "passed"),
    ]


def test_a_completion_that_looks_like_a_chat_is_kept_as_text() -> None:
    assert parse_row(json.dumps(row("a", json.dumps(CHAT))), line=1).completion == json.dumps(CHAT)


def test_files_of_other_encodings_are_read(tmp_path: Path) -> None:
    text = write(tmp_path / "in.jsonl", [row("a", RIGHT)]).read_text()
    for name, content in (("u.jsonl", text.encode("utf-16")), ("p.jsonl.gz", gzip.compress(text.encode()))):
        (tmp_path / name).write_bytes(content)
        assert grade_file(tmp_path / name, tmp_path / "out", settings=QUICK, num_workers=1).num_graded == 1
    (tmp_path / "cut.jsonl").write_bytes(gzip.compress(text.encode())[:-12])
    with pytest.raises(DatasetError, match="cannot read"):
        grade_file(tmp_path / "cut.jsonl", tmp_path / "out", settings=QUICK, num_workers=1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *(
            (word, "stop")
            for word in ("eos_token", "EOS", "end_turn", "STOP", "stop_sequence", "COMPLETE", "tool_calls", "abort")
        ),
        *(
            (word, "stop")
            for word in (None, "", "null", "content_filter", {"type": "stop", "matched": 2}, float("nan"))
        ),
        *(
            (word, "length")
            for word in ("max_tokens", "MAX_TOKENS", "max_new_tokens", "model_length", {"type": "length"})
        ),
        *((word, "length") for word in ("FinishReason.MAX_TOKENS", "FINISH_REASON_MAX_TOKENS", "LENGTH", "max-tokens")),
    ],
)
def test_finish_reasons_of_other_systems_are_read(value: object, expected: str) -> None:
    assert parse_row(json.dumps(row("a", RIGHT, finish_reason=value)), line=1).finish_reason == expected


def test_a_prompt_written_by_a_chat_template_may_open_a_thought() -> None:
    end = "<|im_end|>\n<|im_start|>assistant\n"
    for opening in ("<think>", "[THINK]", "<|START_THINKING|>", '<thinking mode="deep">'):
        rendered = f"<|im_start|>user\n{TWICE.prompt}{end}{opening}\n"
        read_row = parse_row(json.dumps(row("a", RIGHT, prompt=rendered)), line=1)
        assert read_row.opened_thought == opening
        assert read_row.problem.signature == TWICE.signature
    assert (
        parse_row(json.dumps(row("a", RIGHT, prompt=f"{TWICE.prompt}{end}")), line=1).problem.signature
        == TWICE.signature
    )
    assert parse_row(json.dumps(row("a", RIGHT)), line=1).opened_thought == ""


def test_a_completion_inside_a_thought_that_its_prompt_opened_has_no_answer(tmp_path: Path) -> None:
    draft = f"I double it:\n```ocaml\n{RIGHT}\n```\nbut wait"
    rows: list[object] = [
        row("cut", draft, opened_thought="<think>", finish_reason="max_tokens"),
        row("stopped", draft, opened_thought="<think>"),
        row("finished", f"{draft}</think>{RIGHT}", opened_thought="<think>"),
        row("unheard of", draft, opened_thought="{ponder}"),
    ]
    grade_file(write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", settings=QUICK, num_workers=1)
    out = read(tmp_path / "out.jsonl")
    assert [(one["verdict"], one["reward"]) for one in out] == [
        ("no_code", 0),
        ("no_code", 0),
        ("passed", 0.95),
        ("no_code", 0),
    ]
    assert "<think> opens on line 1 is not finished" in out[0]["diagnostics"]
