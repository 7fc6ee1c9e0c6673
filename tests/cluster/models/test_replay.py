"""Replays of a real learner's run from its ledger."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import ConfigError, ModelError, RunFolderError
from cluster.ledger.batches import batch_of
from cluster.ledger.run_folder import RunFolder
from cluster.models.replay import replay_and_report
from tests.cluster.small_run import batch, make_extended, make_finished, make_unfinished

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_unfinished(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def finished(unfinished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_finished(unfinished, tmp_path_factory.mktemp("runs") / "run")


def test_a_replay_reaches_the_adapter_of_the_run_bit_for_bit(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay_and_report(finished, tmp_path / "again") == 0
    assert "after 4 steps the weights equal " in capsys.readouterr().out
    written = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (finished / "adapter").iterdir()}


def test_an_extended_run_is_replayed_with_the_max_steps_of_each_step(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_extended(finished, tmp_path / "run")
    assert replay_and_report(run, None) == 0
    assert "after 6 steps the weights equal " in capsys.readouterr().out

    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"max_steps": 4.0', '"max_steps": 6.0'))
    assert replay_and_report(run, None) == 1  # the replayed learning rate falls more slowly
    assert "the loss differs from step" in capsys.readouterr().out


def test_a_run_without_a_final_adapter_is_replayed_to_its_newest_checkpoint(
    unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay_and_report(unfinished, None) == 0
    assert "after 3 steps" in (printed := capsys.readouterr().out)
    assert "checkpoint-3 bit for bit" in printed


def test_a_run_of_several_ranks_is_refused_with_the_reason(unfinished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(unfinished, run)
    config = (run / "config.yaml").read_text()
    assert config.count("num_ranks: 1") == 1
    (run / "config.yaml").write_text(config.replace("num_ranks: 1", "num_ranks: 2"))
    with pytest.raises(RunFolderError, match=r"learner\.num_ranks=2 processes, whose sums are rounded differently"):
        replay_and_report(run, None)


def test_a_changed_ledger_gives_another_adapter_and_the_first_different_step_is_reported(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)

    (path,) = (run / "rollouts").glob("step-000003-*.parquet")
    table = pq.read_table(path)
    table = table.set_column(
        table.schema.get_field_index("sampler_logprobs"),
        "sampler_logprobs",
        pa.array(
            [[value + 0.1 for value in row] for row in table["sampler_logprobs"].to_pylist()], pa.list_(pa.float32())
        ),
    )
    pq.write_table(table, path)
    assert replay_and_report(run, None) == 1
    printed = capsys.readouterr().out
    assert "tensors differ, by" in printed
    assert "the loss differs from step 3 on" in printed


def test_the_ledger_returns_the_batch_that_the_learner_got(finished: Path) -> None:
    for step in (1, 2, 3, 4):
        for read, trained in zip(batch_of(RunFolder(finished), step), batch(step), strict=True):
            assert read.rewards == trained.rewards
            for one, other in zip(read.completions, trained.completions, strict=True):
                assert (one.id, one.index, one.prompt_ids, one.token_ids, one.token_versions) == (
                    other.id,
                    other.index,
                    other.prompt_ids,
                    other.token_ids,
                    other.token_versions,
                )
                assert one.sampler_logprobs == pytest.approx(other.sampler_logprobs, rel=1e-7)  # float32 of both


def test_an_impossible_replay_is_refused_in_one_line(finished: Path, tmp_path: Path) -> None:
    def refused(run: Path, out: Path | None = None, error: type[Exception] = RunFolderError) -> str:
        with pytest.raises(error) as caught:
            replay_and_report(run, out)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "config.yaml cannot be read (No such file" in refused(tmp_path / "nowhere")
    (tmp_path / "torn").mkdir()
    for name in ("config.yaml", "adapter"):
        (tmp_path / "torn" / name).symlink_to(finished / name)
    (tmp_path / "torn/metrics.jsonl").write_text(
        "".join(f"{line}\n" for line in (finished / "metrics.jsonl").read_text().splitlines()[1:])
    )
    assert "metrics.jsonl lacks step 1" in refused(tmp_path / "torn")
    assert "is in the folder of the run" in refused(finished, finished / "adapter", ConfigError)

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (lost,) = (run / "rollouts").glob("step-000002-*.parquet")
    lost.rename(tmp_path / "lost.parquet")
    assert "no completion of the batch of step 2" in refused(run)
    lost.write_bytes(b"PAR1")
    assert "cannot be read as Parquet" in refused(run)

    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("path: tiny", f"path: {tmp_path}/gone"))
    assert "there is no such folder" in refused(run, error=ModelError)
    (run / "config.yaml").write_text(text.replace("    r: 12\n", "    r: 16\n"))
    assert "was not trained on" in refused(run)
    (run / "config.yaml").write_text(text)
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints")
    assert "no adapter and no checkpoint" in refused(run)
