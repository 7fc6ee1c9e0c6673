import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.config.load import load_config
from cluster.console import View
from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.run_folder import RunFolder
from cluster.loop.metrics import group_metrics
from cluster.run.curve import draw_curve
from cluster.run.recorder import RunRecorder
from cluster.types import Drop, DropReason, Prompt, StepReport
from tests.cluster.records import group


def test_every_completion_is_written_once_with_its_outcome(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.opened(load_config(None, environment={})):
        prompt = Prompt(problem_id="p", text="the prompt", token_ids=(0,), template_hash="d1")
        records = RunRecorder(folder, View(), lambda _: None, {"p": prompt})
        dropped = group([0.5, 0.5], group_id="g0000000")
        trained = group([0.0, 1.0, None], group_id="g0000001")
        records.group_dropped(DroppedGroup(group=dropped, group_size=2, drop=Drop(DropReason.NO_SIGNAL)), step=0)
        timings = {"tokens_per_second": 1.0, "step_seconds": 1.0}
        records.step_done(0.1, [trained], StepReport(step=1, metrics={}), {**group_metrics([trained]), **timings}, {})

        rows = pq.read_table(folder.rollouts).to_pylist()
        assert [(row["completion_id"], row["fate"], row["reason"]) for row in rows] == [
            ("g0000000-c0", "filtered", "no_signal"),
            ("g0000000-c1", "filtered", "no_signal"),
            ("g0000001-c0", "trained", ""),
            ("g0000001-c1", "trained", ""),
            ("g0000001-c2", "failed", "ungradable"),
        ]
        assert rows[2]["token_ids"] == [0, 1, 2, 3]
        assert rows[4]["total_reward"] is None
        assert {(row["prompt"], row["template_hash"]) for row in rows} == {("the prompt", "d1")}

        logged = [json.loads(line) for line in folder.completions.read_text().splitlines()]
        assert [row["completion_id"] for row in logged] == [row["completion_id"] for row in rows[:4]]
        terms = [json.loads(line) for line in folder.breakdown.read_text().splitlines()]
        assert terms[0].keys() >= {
            "step",
            "structural",
            "type_check",
            "compile",
            "tests",
            "total_reward",
            "tests_passed",
        }
        assert folder.learning_log.read_text().startswith("[Epoch 0.10]  loss=nan")
        assert draw_curve(folder).stat().st_size > 10_000


def test_a_complete_epoch_is_written_with_its_means_even_if_the_run_was_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    trained = group([0.0, 1.0])
    with folder.opened(load_config(None, environment={})):
        records = RunRecorder(folder, View(), lambda _: None)
        for step in range(1, 9):
            if step == 4:  # interrupted after step 3
                folder.truncate_after(3)
                records = RunRecorder(folder, View(), lambda _: None)
            metrics = {**group_metrics([trained]), "tokens_per_second": 1.0, "step_seconds": 1.0, "reward": 0.1 * step}
            records.step_done(0.3 * step, [trained], StepReport(step=step, metrics={}), metrics, {})
    first, second = (json.loads(line) for line in folder.epochs.read_text().splitlines())
    assert (first["name"], first["step"], first["num_steps"]) == ("epoch 1", 4, 3)
    assert first["means"]["reward"] == pytest.approx(0.2)
    assert (second["name"], second["num_steps"]) == ("epoch 2", 3)
    assert second["means"]["reward"] == pytest.approx(0.5)
    shown = capsys.readouterr().err
    assert "epoch 1 -> epoch 2" in shown
    assert "improving" in shown
