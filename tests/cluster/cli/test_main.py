import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.cli.main import main
from cluster.loop.evaluation import summarize
from grader.profiles import PROFILES
from tests.cluster.records import group, problem

HEAVY = ("torch", "vllm", "ray", "transformers", "trl", "peft", "datasets", "pyarrow", "matplotlib")
PROBLEM = {
    "prompt": "(** Twice a number.\n * >>> twice 2\n * 4\n *)\nlet twice (n : int) : int =",
    "tests": "let () =\n  assert (twice 2 = 4);\n  assert (twice (-3) = -6)",
}


def heavy_modules_after(arguments: list[str]) -> set[str]:
    """Return the heavy packages that a command imports."""
    script = (
        "import sys\nfrom cluster.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print('imported', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["eval", "--help"], ["sample", "--help"], ["regrade", "--help"], ["keys"]],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert heavy_modules_after(arguments) == set()


def test_every_command_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("train", "check", "eval", "sample", "grade", "regrade"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert f"  caravan {command} " in capsys.readouterr().out.split("examples:")[1]


def test_a_file_is_graded_in_order_without_heavy_imports(tmp_path: Path) -> None:
    rows = [
        {"id": "a", **PROBLEM, "completion": "  2 * n\n(* END *)"},
        {"id": "a", **PROBLEM, "completion": "let twice n = n ^ 1"},
        {"id": "b", **PROBLEM, "completion": "```ocaml\nlet twice n = n * n\n```", "finish_reason": "length"},
    ]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert heavy_modules_after(["grade", str(source), "--out", str(target), "--min-lines", "1"]) == set()
    graded = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["id"], row["verdict"], row["tests_passed"]) for row in graded] == [
        ("a", "passed", 2),
        ("a", "type_error", 0),
        ("b", "wrong", 1),
    ]
    assert graded[0]["reward"] == pytest.approx(1.0)
    assert graded[2]["reward"] == pytest.approx(0.3 * (0.20 + 0.10 + 0.65 / 2))


def test_a_file_is_graded_under_the_named_reward(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"id": "a", **PROBLEM, "completion": "let twice n = n * n"}) + "\n")
    for reward, expected in (
        ("binary", 0.0),
        ("no-end-25-10-65,min_code_lines=1", 0.25 + 0.10 + 0.325),
        ("seed-5-20-10-65,tests=0.4,min_code_lines=1", 0.20 + 0.10 + 0.20),
    ):
        assert main(["grade", str(source), "--out", str(target), "--reward", reward]) == 0
        assert json.loads(target.read_text())["reward"] == pytest.approx(expected)


def test_the_help_lists_the_reward_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("grade", "regrade"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown and profile.meaning in shown for name, profile in PROFILES.items())


def test_a_malformed_row_is_reported_and_the_others_are_graded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = json.dumps({"id": "a", **PROBLEM, "completion": "2 * n"})
    source.write_text(f"\ufeff{good}\n{{broken\n{good}\n", encoding="utf-8")
    assert main(["grade", str(source), "--out", str(target)]) == 1
    assert "line 2" in capsys.readouterr().err
    assert len(target.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "-c", "nowhere.yaml"], 2, "cannot read the configuration nowhere.yaml"),
        (["train", "group_size=1"], 2, "rollout.group_size=1"),
        (["train", "dataset=nowhere.jsonl", "model.path=tiny"], 1, "no such file"),
        (["train", "dataset=builtin", "model.path=/nowhere"], 1, "there is no such folder"),
        (["eval", "dataset=builtin", "model.path=tiny", "held_out=0"], 1, "nothing to evaluate"),
        (["eval", "dataset=builtin", "model.path=tiny", "model.adapter=/nowhere"], 1, "no LoRA adapter in PEFT format"),
        (["sample", "dataset=builtin", "model.path=tiny", "--id", "nobody"], 1, "no problem 'nobody'"),
        (["grade", "nowhere.jsonl", "--out", "out.jsonl"], 1, "cannot read nowhere.jsonl"),
        (["grade", __file__, "--out", "out.jsonl", "--reward", "fame"], 2, "no reward profile 'fame'"),
        (["grade", __file__, "--out", "out.jsonl", "--min-lines", "-1"], 2, "--min-lines -1: Input should be greater"),
        (
            ["grade", __file__, "--out", "out.jsonl", "--reward", "binary,min_code_lines=2", "--min-lines", "1"],
            2,
            "--min-lines and min_code_lines of --reward differ",
        ),
        (
            ["train", "model.path=tiny", "model.adapter=runs/a/adapter"],
            2,
            "`caravan train learner.adapter=runs/a/adapter`",
        ),
        (["train", "weights.tests=0.9"], 2, "weights.compile 0.1 + weights.tests 0.9 = 1.25"),
        (["train", "grader.reward=fame"], 2, "grader.reward='fame': there is no reward profile 'fame'"),
    ],
)
def test_an_impossible_command_ends_in_one_message(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["ascii", "posix"],
)
def test_characters_that_the_output_encoding_lacks_are_replaced(tmp_path: Path, locale: dict[str, str]) -> None:
    groups = [replace(group([0.0, 1.0]), problem=problem(name)) for name in ("é", "山")]
    result = summarize(groups, "naïve → 山")
    evaluation = tmp_path / "evaluation.json"
    evaluation.write_text(json.dumps(result.as_row()), encoding="utf-8")
    for arguments, exit_status in (
        (["compare", str(evaluation), str(evaluation)], 0),
        (["audit", str(tmp_path / "→.jsonl")], 1),
        (["train", "-c", "→.yaml"], 2),
    ):
        command = [sys.executable, "-m", "cluster.cli.main", *arguments]
        done = subprocess.run(command, env={**os.environ, **locale}, capture_output=True, check=False, timeout=120)
        output = done.stdout + done.stderr
        assert done.returncode == exit_status, output
        assert b"Traceback" not in output and b"Unicode" not in output
        assert b"?" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "model.path=tiny", "dataset=builtin", f"run.folder={300 * 'x'}"],
        ["train", "--resume", 300 * "x"],
        ["train", "-c", 300 * "x"],
        ["health", 300 * "x"],
        ["report", 300 * "x"],
        ["export", 300 * "x", "out"],
        ["replay", 300 * "x"],
        ["audit", 300 * "x"],
        ["grade", f"{300 * 'x'}.jsonl", "--out", "grades.jsonl"],
        ["eval", "model.path=tiny", f"dataset={300 * 'x'}.jsonl"],
    ],
    ids=lambda arguments: " ".join(arguments)[:20],
)
def test_a_name_that_is_too_long_ends_in_one_message(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(arguments) in (1, 2)
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("caravan: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "folder_exists", "message"),
    [
        (["dataset=none.jsonl"], True, "none.jsonl"),
        (["model.path=./no-model"], False, "no-model"),
        (["held_out=100000"], False, "held"),
        (["run.tracker=wandb"], False, "run.tracker=wandb"),
        ([], False, "the Ray cluster at 127.0.0.1:1 (RAY_ADDRESS) cannot be joined"),
        ([], True, "the Ray cluster at 127.0.0.1:1 (RAY_ADDRESS) cannot be joined"),
    ],
)
def test_a_refused_run_creates_no_folder_and_changes_no_existing_one(
    settings: list[str],
    folder_exists: bool,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if folder_exists:
        (tmp_path / "runs" / "run").mkdir(parents=True)
        (tmp_path / "runs" / "run" / "notes.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert main(["train", "model.path=tiny", "dataset=builtin", *settings]) in (1, 2)
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_envrc_that_is_not_loaded_is_reported_with_the_settings_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRPO_TEMPERATURE", raising=False)
    (tmp_path / ".envrc").write_text("export GRPO_TEMPERATURE=1.2\nPATH_add bin\nOTHER=1\nexport GRPO_BETA=0.1\n")
    monkeypatch.setenv("GRPO_BETA", "0.1")
    assert main(["eval", "held_out=0", "model.path=tiny", "dataset=builtin"]) == 1
    warnings = [line for line in capsys.readouterr().err.splitlines() if ".envrc" in line]
    assert warnings == [
        "caravan: .envrc sets GRPO_TEMPERATURE, and is not read: load it first, with `set -a; source .envrc` or direnv"
    ]
