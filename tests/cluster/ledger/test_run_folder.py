import errno
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.errors import RunFolderError
from cluster.ledger.jsonl import whole_rows
from cluster.ledger.progress import Progress
from cluster.ledger.run_folder import RunFolder


def config(*overrides: str) -> Config:
    return load_config(None, overrides, environment={})


def test_a_folder_is_locked_by_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path / "run").opened(config()),
        pytest.raises(RunFolderError, match="in use by another process"),
        RunFolder(tmp_path / "run").opened(config()),
    ):
        pass
    with RunFolder(tmp_path / "run").opened(config()):
        pass


def refused(folder: RunFolder, *overrides: str, writes: Sequence[str] = ()) -> None:
    """Start a run that fails before its first step, after it has written some files."""
    with pytest.raises(ValueError, match="refused"), folder.opened(config(*overrides)):
        for name in writes:
            (folder.path / name).parent.mkdir(exist_ok=True)
            (folder.path / name).write_text("{}")
        folder.link_worker_logs(Path("/tmp/ray"))
        raise ValueError("refused")


def contents(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text() if path.is_file() else "" for path in sorted(folder.rglob("*"))}


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "some" / "run")
    refused(folder, writes=("audit.jsonl", "data.jsonl", "tensorboard/events", ".tracker"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), folder.opened(config()):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("result", ["metrics.jsonl", "evaluation.jsonl", "rollouts/step-000001-1.parquet"])
def test_a_run_that_has_results_keeps_its_folder(result: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    refused(folder, writes=("audit.jsonl", result))
    assert {folder.config, folder.audit, folder.path / result} <= set(folder.path.rglob("*"))
    kept = contents(folder.path)
    refused(folder, "learning_rate=1e-3", writes=("tensorboard/events", ".tracker"))
    assert contents(folder.path) == kept


def test_a_refused_start_leaves_an_existing_folder_unchanged(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    (tmp_path / "rollouts").mkdir()
    before = contents(tmp_path)
    refused(RunFolder(tmp_path), writes=("audit.jsonl",))
    assert contents(tmp_path) == before


def test_a_process_without_the_lock_changes_nothing(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").opened(config()) as held:
        held.write(held.audit, "")
        with pytest.raises(RunFolderError, match="in use"), RunFolder(tmp_path / "run").opened(config()):
            pass
        assert held.audit.exists() and held.rollouts.exists()


def test_a_run_is_not_resumed_under_other_settings(tmp_path: Path) -> None:
    with RunFolder(tmp_path).opened(config("learning_rate=1e-5")):
        (tmp_path / "checkpoints/checkpoint-1").mkdir()
    with (
        pytest.raises(RunFolderError, match=r"learner\.learning_rate=2e-05 \(was 1e-05\)"),
        RunFolder(tmp_path).opened(config("learning_rate=2e-5")),
    ):
        pass


def test_a_run_may_resume_with_other_placement_settings(tmp_path: Path) -> None:
    with RunFolder(tmp_path).opened(config()):
        (tmp_path / "checkpoints/checkpoint-1").mkdir()
    with RunFolder(tmp_path).opened(
        config("num_samplers=4", "num_graders=9", "learner.cpus=2", "learner.num_threads=3")
    ):
        pass


def test_a_start_without_checkpoint_does_not_fix_the_configuration(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.opened(config("temperature=0.8")):
        folder.append_json(folder.evaluation, {"name": "before"})
    with folder.opened(config("temperature=0.7")):
        assert folder.evaluations() == []
        assert "temperature: 0.7" in folder.config.read_text()


def test_rows_of_steps_that_will_be_repeated_are_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.opened(config()):
        for step in (1, 2, 3):
            folder.append_json(folder.metrics, {"step": step})
            folder.append(folder.learning_log, f"line {step}")
            (folder.rollouts / f"step-{step:06d}-000001.parquet").touch()
        with folder.metrics.open("a") as file:
            file.write('{"step": 4, "rew')  # truncated by a crash
        folder.truncate_after(2)
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2]
    assert folder.learning_log.read_text() == "line 1\nline 2\n"
    assert [path.name[:11] for path in sorted(folder.rollouts.iterdir())] == ["step-000001", "step-000002"]


def test_incomplete_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.opened(config()):
        for name in ("step-000001-000001.parquet", "step-000002-000001.parquet", "step-000001-000002.tmp"):
            (folder.rollouts / name).touch()
        folder.truncate_after(1)
    assert [path.name for path in folder.rollouts.iterdir()] == ["step-000001-000001.parquet"]


def test_progress_is_restored_as_it_was_saved(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.opened(config()):
        progress = Progress(step=2, next_position=9, num_trained=4, started=[7, 8])
        folder.save_progress(progress.step, progress.to_json())
        assert folder.load_progress(2).again == [7, 8]
        assert folder.load_progress(0) == Progress()
        with pytest.raises(RunFolderError, match="cannot resume from step 5"):
            folder.load_progress(5)


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with folder.opened(config()):
        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(RunFolderError, match=r"metrics\.jsonl: the disk is full.*resume from the last checkpoint"):
            folder.append(folder.metrics, "{}")


def test_a_folder_that_cannot_be_created_is_reported() -> None:
    with pytest.raises(RunFolderError, match="cannot write"), RunFolder(Path("/proc/nowhere")).opened(config()):
        pass


@pytest.mark.parametrize("text", ["a\u2028b", "a\u0085b", "a\x0cb", "a\r\nb", "\u2029"])
def test_a_completion_may_contain_any_separator(text: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.completions.parent.mkdir()
    folder.append_json(folder.completions, *({"step": step, "completion": text} for step in (1, 2, 3)))
    folder.truncate_after(2)
    assert folder.rows(folder.completions) == [{"step": step, "completion": text} for step in (1, 2)]


@pytest.mark.parametrize(
    ("name", "row", "why"),
    [
        ("metrics.jsonl", {}, "'step' is null, not a number"),
        ("metrics.jsonl", {"step": 1, "epoch": math.nan}, "'epoch' is NaN, not a number"),
        ("evaluation.jsonl", {"name": "before", "step": "one"}, "'step' is \"one\", not a number"),
        ("phases.jsonl", {"step": 1, "set": "all"}, "'set' is \"all\", not an object"),
        ("health.jsonl", [1], "it is not an object"),
    ],
)
def test_an_invalid_row_is_reported_with_its_line(tmp_path: Path, name: str, row: object, why: str) -> None:
    folder = RunFolder(tmp_path)
    good = {"step": 1, "epoch": 0.1, "set": {}, "name": "before", "rule": "entropy"}
    good |= dict.fromkeys(("reward", "reward_standard_error", "pass_rate", "solved_once"), 0.5)
    path = tmp_path / name
    path.write_text(f"{json.dumps(good)}\n{json.dumps(row)}\n")
    for read in (folder.rows, lambda path: list(whole_rows(path))):
        with pytest.raises(RunFolderError, match=re.escape(f"{path}, line 2: cannot be read ({why})")):
            read(path)


def test_the_command_in_a_message_can_be_executed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "demo (copy)")
    with folder.opened(config()):
        (folder.checkpoints / "checkpoint-1").mkdir()
    with pytest.raises(RunFolderError) as caught, folder.opened(config("learning_rate=1e-3")):
        pass
    assert f"--resume '{folder.path}' key=value" in str(caught.value)
