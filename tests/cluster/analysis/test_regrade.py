import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cluster.analysis.regrade import grader_settings_of, rescore
from cluster.cli.main import main
from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import View
from cluster.ledger.batches import batch_of
from cluster.ledger.files import read_rollouts
from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.rows import FACT_COLUMNS, facts_of
from cluster.ledger.run_folder import RunFolder
from cluster.run.recorder import RunRecorder
from cluster.types import AssertOutcome, Drop, DropReason, Facts, Group, StepReport, Verdict
from grader.profiles import PROFILES
from grader.reward import profile_of, score
from grader.settings import GraderSettings
from tests.cluster.records import completion, grade, problem
from tests.grader.facts_strategies import all_facts

METRICS = dict.fromkeys(
    ("reward", "pass_rate", "frac_zero_std", "tokens_per_second", "num_completions", "step_seconds"), 1.0
)
RUN_REWARD = ["grader.min_code_lines=1"]
PASSED = replace(grade(1.0).facts, asserts=(AssertOutcome.PASSED,) * 4, covered_by_example=(True, True, False, False))
WRONG = replace(PASSED, verdict=Verdict.WRONG, asserts=(AssertOutcome.PASSED,) * 2 + (AssertOutcome.FAILED,) * 2)
TYPE_ERROR = replace(
    PASSED,
    verdict=Verdict.TYPE_ERROR,
    asserts=(AssertOutcome.NOT_RUN,) * 4,
    type_errors=1,
    compiled=False,
    type_checked=False,
)


def group_of(facts: Sequence[Facts | None], config: Config, group_id: str) -> Group:
    """A group with the grades that the run's own graders would give."""
    profile = profile_of(config.grader)
    return Group(
        id=group_id,
        problem=problem(),
        completions=tuple(completion(group_id, index) for index in range(len(facts))),
        grades=tuple(
            None if completion_facts is None else score(completion_facts, profile) for completion_facts in facts
        ),
    )


def recorded_run(
    path: Path, groups: Iterable[Sequence[Facts | None]], overrides: Sequence[str] = RUN_REWARD
) -> RunFolder:
    """The folder of a run that trained these groups, one in each step."""
    folder, config = RunFolder(path), load_config(None, overrides, environment={})
    with folder.opened(config):
        records = RunRecorder(folder, View(), lambda _: None)
        for step, facts in enumerate(groups, start=1):
            records.step_done(
                0.1, [group_of(facts, config, f"s{step:06d}-g00")], StepReport(step=step, metrics={}), METRICS, {}
            )
    return folder


@hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(st.lists(st.none() | all_facts(), min_size=1, max_size=6), min_size=1, max_size=3),
    st.sampled_from(
        [
            [],
            RUN_REWARD,
            ["grader.reward=no-end-25-10-65", "shown_assert_weight=0.3"],
            ["grader.reward=binary", "degenerate_multiplier=0.7"],
            ["weights.structural=0.1", "weights.type_check=0.4", "weights.compile=0.3", "weights.tests=0.2"],
        ]
    ),
)
def test_the_runs_own_reward_reproduces_the_stored_rewards(
    groups: list[list[Facts | None]], overrides: list[str]
) -> None:
    groups = [*groups, [PASSED]]
    with TemporaryDirectory() as path:
        folder = recorded_run(Path(path), groups, overrides)
        result = rescore(folder, profile_of(grader_settings_of(folder)))
    assert [rescored.new_reward for rescored in result.completions] == [
        rescored.old_reward for rescored in result.completions
    ]
    assert [rescored.new_terms for rescored in result.completions] == [
        rescored.old_terms for rescored in result.completions
    ]
    assert len(result.completions) + result.num_ungraded == sum(map(len, groups))


@hypothesis_settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(all_facts())
def test_the_facts_of_a_reward_are_restored_from_their_row(facts: Facts) -> None:
    with TemporaryDirectory() as path:
        folder = recorded_run(Path(path), [[facts]])
        (row,) = pq.read_table(folder.rollouts).to_pylist()
    restored = facts_of(row)
    assert all(getattr(restored, name) == getattr(facts, name) for name in FACT_COLUMNS.values())
    assert row["errors"] == [{"line": error.line, "message": error.message} for error in facts.errors]


@pytest.mark.parametrize("name", PROFILES)
def test_another_reward_equals_the_score_of_a_grader(tmp_path: Path, name: str) -> None:
    folder = recorded_run(tmp_path, [[PASSED, WRONG, TYPE_ERROR]])
    result = rescore(folder, PROFILES[name])
    assert [rescored.new_reward for rescored in result.completions] == [
        score(facts, PROFILES[name]).reward for facts in (PASSED, WRONG, TYPE_ERROR)
    ]


def rows_of(text: str) -> dict[str, list[str]]:
    """Return the rows of the tables of a report: name of the row -> its other cells."""
    cells = [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in text.splitlines() if "│" in line]
    return {name: others for name, *others in cells}


def test_the_changes_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_run(tmp_path, [[PASSED, WRONG, TYPE_ERROR], [WRONG, TYPE_ERROR, None], [None, None]])
    assert main(["regrade", str(tmp_path), "--reward", "binary"]) == 0
    shown = capsys.readouterr().out
    rows = rows_of(shown)
    assert "5 completions in 2 groups" in shown
    assert rows["mean reward"] == ["0.5540", "0.2000"]  # (1 + 2 * 0.675 + 2 * 0.21) / 5
    assert rows["groups without signal"] == ["0.0%", "50.0%"]
    assert rows["Kendall's tau-b, mean of 1 groups"] == ["", "0.816"]  # 2 / sqrt(3 * 2)
    assert rows["groups whose best completion changes"] == ["", "0.0%"]
    assert rows["pairs in a group in opposite order"] == ["", "0.0%"]
    assert rows["pairs in a group tied only under the new reward"] == ["", "50.0%"]  # 2 of 4
    assert rows["passed"] == ["1", "1.0000", "1.0000"]
    assert rows["type_error"] == ["2", "0.2100", "0.0000"]
    assert "tests: 0.65 -> 1.0" in shown
    assert "min_code_lines: 1 -> 0" in shown
    assert "excluded: 3 completions without a grade; 1 groups have no graded completion" in shown


def test_without_a_reward_option_the_stored_rewards_are_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded_run(tmp_path, [[PASSED, WRONG]])
    assert main(["regrade", str(tmp_path)]) == 0
    assert "every reward equals the stored one" in capsys.readouterr().out


def test_a_run_graded_with_other_settings_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recorded_run(tmp_path, [[PASSED, WRONG]])
    folder.config.write_text(folder.config.read_text().replace("min_code_lines: 1", "min_code_lines: 2"))
    assert main(["regrade", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "rewards differ from the stored ones by up to 1:" in shown
    assert "2 completions have fewer than 2 code lines: reward 0" in shown


def test_a_schedule_that_changed_the_reward_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recorded_run(tmp_path, [[PASSED, WRONG]])
    folder.append_json(folder.phases, {"step": 2, "set": {"learner.kl_coefficient": 0.1}})
    assert main(["regrade", str(tmp_path)]) == 0
    assert "schedule" not in capsys.readouterr().out
    folder.append_json(folder.phases, {"step": 5, "set": {"grader.weights.tests": 0.9, "rollout.temperature": 1.0}})
    assert main(["regrade", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert (
        "the schedule changed the reward 1 times (after step 5): an old reward uses the settings of its step" in shown
    )
    assert "(phases.jsonl)" in shown


def test_keys_without_a_profile_change_the_runs_own_reward(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_run(tmp_path, [[PASSED, WRONG]])
    assert main(["regrade", str(tmp_path), "--reward", "shown_assert_weight=0"]) == 0
    shown = capsys.readouterr().out
    assert "shown_assert_weight: 1.0 -> 0.0" in shown
    assert "min_code_lines" not in shown
    assert rows_of(shown)["wrong"] == ["1", "0.6750", "0.3500"]  # both passed asserts are covered by an example


@pytest.mark.parametrize("name", ["new.jsonl", "deep/new.parquet"])
def test_old_and_new_rewards_are_written(tmp_path: Path, name: str) -> None:
    run, out = tmp_path / "run", tmp_path / name
    recorded_run(run, [[PASSED, None, TYPE_ERROR]])
    assert main(["regrade", str(run), "--reward", "no-end-25-10-65,min_code_lines=0", "--out", str(out)]) == 0
    if out.suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        rows = pq.read_table(out).to_pylist()
    assert rows[1] == {
        "group_id": "s000001-g00",
        "completion_id": "s000001-g00-c2",
        "verdict": "type_error",
        "old_reward": 0.21,
        "new_reward": 0.21,
        "old_terms": {"structural": 0.05, "type_check": 0.15, "compile": 0.01, "tests": 0.0},
        "new_terms": {"structural": 0.0, "type_check": 0.2, "compile": 0.01, "tests": 0.0},
    }
    assert (len(rows), rows[0]["new_reward"]) == (2, 1.0)
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(".")] == []


def test_a_running_or_killed_run_can_be_re_scored(tmp_path: Path) -> None:
    config = load_config(None, RUN_REWARD, environment={})
    folder = RunFolder(tmp_path)
    with folder.opened(config):  # locks the folder, as a running run does
        records = RunRecorder(folder, View(), lambda _: None)
        records.step_done(0.1, [group_of([PASSED], config, "a")], StepReport(step=1, metrics={}), METRICS, {})
        (folder.rollouts / "step-000002-000002.tmp").write_bytes(b"PAR1 cut here")
        assert len(rescore(folder, PROFILES["binary"]).completions) == 1
        dropped = DroppedGroup(
            group=group_of([WRONG, WRONG], config, "b"), group_size=2, drop=Drop(DropReason.NO_SIGNAL)
        )
        records.group_dropped(dropped, step=1)
        records.step_done(0.1, [group_of([PASSED], config, "c")], StepReport(step=2, metrics={}), METRICS, {})
        assert [rescored.group_id for rescored in rescore(folder, PROFILES["binary"]).completions] == [
            "a",
            "b",
            "b",
            "c",
        ]


def test_the_files_of_the_run_are_unchanged(tmp_path: Path) -> None:
    folder = recorded_run(tmp_path, [[PASSED, WRONG]])
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert main(["regrade", str(tmp_path), "--reward", "binary"]) == 0
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_a_run_without_configuration_is_re_scored_under_a_named_profile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded_run(tmp_path, [[PASSED, WRONG]]).config.unlink()
    assert main(["regrade", str(tmp_path), "--reward", "binary"]) == 0
    assert "the run's own reward is unknown" in capsys.readouterr().out
    assert main(["regrade", str(tmp_path)]) == 1
    assert "No such file or directory); name a profile" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 1, "nowhere is not a run directory: it does not exist"),
        (["empty", "--reward", "binary"], 1, "empty has no rollouts yet"),
        (["half", "--reward", "binary"], 1, "half has no rollouts yet"),
        (["old", "--reward", "binary"], 1, "has no column asserts, shown, compiled"),
        (["broken", "--reward", "binary"], 1, "step-000002-000001.parquet cannot be read as Parquet"),
        (["ungraded", "--reward", "binary"], 1, "holds no graded completion"),
        (["foreign", "--reward", "binary"], 1, "completion c: 'brilliant' is not a valid Verdict"),
        (["good", "--reward", "fame"], 2, "no reward profile 'fame'; there are: binary"),
        (["good", "--reward", "tests=0.9"], 2, "weights.tests 0.9 = 1.25"),
        (["good", "--reward", "binary", "--out", "new.csv"], 2, "must end in .jsonl or .parquet"),
        (["good", "--out", "good/metrics.jsonl"], 2, "this file belongs to the run"),
        (["good", "--out", "good/rollouts/new.parquet"], 2, "this file belongs to the run"),
        (["good", "--out", "good/config.yaml/new.jsonl"], 1, "cannot write good/config.yaml/new.jsonl"),
    ],
)
def test_errors_are_reported_in_one_line(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name in ("good", "old", "broken", "foreign"):
        recorded_run(tmp_path / name, [[PASSED, WRONG]])
    recorded_run(tmp_path / "ungraded", [[None, None]])
    recorded_run(tmp_path / "half", [])
    (tmp_path / "half" / "rollouts" / "step-000001-000001.tmp").write_bytes(b"PAR1")
    (tmp_path / "broken" / "rollouts" / "step-000002-000001.parquet").write_bytes(b"PAR1 cut here")
    rewrite(tmp_path / "old", lambda table: table.drop_columns(["asserts", "shown", "compiled"]))
    rewrite(tmp_path / "foreign", lambda table: replaced(table, {"verdict": "brilliant", "completion_id": "c"}))
    capsys.readouterr()
    assert main(["regrade", *arguments]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert captured.out == ""


def test_thought_tokens_are_priced_from_stored_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = [[replace(PASSED, num_thought_tokens=number) for number in (0, 500, 5000)]]
    folder = recorded_run(tmp_path, groups)
    settings = GraderSettings.model_validate({"thought_tokens": {"cap": 1000, "price": 0.2}, "min_code_lines": 1})
    assert [rescored.new_reward for rescored in rescore(folder, profile_of(settings)).completions] == pytest.approx(
        [1.0, 0.9, 0.0]
    )
    assert main(["regrade", str(tmp_path), "--reward", "thought_tokens.price=0.2"]) == 0
    assert "thought_token_price: 0.0 -> 0.2" in capsys.readouterr().out


def test_a_ledger_of_an_older_version_has_no_thought_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_run(tmp_path, [[PASSED, WRONG]])
    rewrite(tmp_path, lambda table: table.drop_columns(["thought_tokens"]))
    assert main(["regrade", str(tmp_path)]) == 0
    (path,) = (tmp_path / "rollouts").glob("*.parquet")
    assert read_rollouts(path, ["text", "thought_tokens"]).column("thought_tokens").to_pylist() == [None, None]
    assert [grade.facts.num_thought_tokens for grade in batch_of(RunFolder(tmp_path), 1)[0].grades if grade] == [
        None,
        None,
    ]
    capsys.readouterr()
    assert main(["regrade", str(tmp_path), "--reward", "thought_tokens.cap=9"]) != 0
    assert "leave out thought_tokens.cap and thought_tokens.price" in capsys.readouterr().err


def rewrite(run: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the stored rollouts of a run."""
    (path,) = (run / "rollouts").glob("*.parquet")
    pq.write_table(change(pq.read_table(path)), path)


def replaced(table: pa.Table, values: dict[str, str]) -> pa.Table:
    for name, value in values.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pa.array([value] * table.num_rows))
    return table
