import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.analysis.trace import write_trace
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import RunFolderError
from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.progress import Progress
from cluster.ledger.run_folder import RunFolder
from cluster.loop.metrics import step_metrics
from cluster.run.recorder import RunRecorder
from cluster.types import Drop, DropReason, StepReport, Timestamps, WeightSync
from tests.cluster.records import group


def test_a_trace_has_every_completion_step_and_publish_in_threads_without_overlap(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.opened(load_config(None, environment={})):
        records = RunRecorder(folder, View(), lambda _: None)
        timestamps = (
            Timestamps(requested=100.0, sampled=101.0, graded=102.0),
            Timestamps(requested=100.0, sampled=101.05, graded=101.5),
        )
        trained = replace(group([0.0, 1.0], group_id="g0000000"), timestamps=timestamps)
        stale = replace(
            group([None], group_id="g0000001"), timestamps=(Timestamps(requested=100.0, sampled=103.0, graded=None),)
        )
        records.group_dropped(DroppedGroup(group=stale, group_size=2, drop=Drop(DropReason.STALE)), step=0)
        report = StepReport(step=1, metrics={"loss": 0.5})
        metrics = {"step_seconds": 4.0, "learn_began_at": 102.0, "learned_at": 103.5}
        records.step_done(0.1, [trained], report, step_metrics([trained], [], report, Progress(), metrics), {})
        records.policy_published(
            1, [WeightSync(sampler="sampler 0", seconds=0.1, gap=1e-6, tolerance=1e-3)], 103.5, 0.25
        )
    out = tmp_path / "trace.json"
    assert write_trace(folder.path, out) == 3 + 2 + 1 + 1
    events = json.loads(out.read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert {event["name"] for event in spans} == {"g0000000-c0", "g0000000-c1", "g0000001-c0", "step 1", "policy 1"}
    (publish,) = [event for event in spans if event["name"] == "policy 1"]
    assert publish["dur"] == 250_000
    for thread in {(event["pid"], event["tid"]) for event in spans}:
        events_of_thread = sorted((e["ts"], e["dur"]) for e in spans if (e["pid"], e["tid"]) == thread)
        ends = [ts + dur for ts, dur in events_of_thread]
        assert all(end <= ts for end, (ts, _) in zip(ends, events_of_thread[1:], strict=False))


def test_a_run_without_steps_has_no_trace(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.opened(load_config(None, environment={})):
        pass
    with pytest.raises(RunFolderError, match="no timestamps yet"):
        write_trace(folder.path, tmp_path / "trace.json")


def test_a_folder_without_a_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run directory"):
        write_trace(tmp_path, tmp_path / "trace.json")


def test_a_damaged_file_of_the_ledger_is_reported(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.opened(load_config(None, environment={})):
        (folder.rollouts / "step-000001-000001.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(RunFolderError, match="cannot be read as Parquet"):
        write_trace(folder.path, tmp_path / "trace.json")
