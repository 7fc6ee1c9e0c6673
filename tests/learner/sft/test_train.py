"""Checkpoints of supervised training: resumed after an interruption, and written to a fallback folder."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import LearnerError
from learner.lora_settings import LoraSettings
from learner.sft import train as supervised
from learner.sft.examples import SftSchedule
from learner.sft.train import CheckpointSettings, FineTuneResult, fine_tune, load_weights
from learner.sft.warm_start import fresh_model
from learner.training.checkpoints import write_checkpoint
from learner.training.model import Device
from tests.learner.sft.test_warm_start import SHAPE, successor_pairs, tokenizer

SCHEDULE = SftSchedule(num_steps=8, batch_size=16, micro_batch_size=8, learning_rate=1e-2, num_warm_up_steps=2, seed=3)
LORA = LoraSettings(r=8, dropout=0.2)


def train(
    folder: Path, *, lora: LoraSettings | None, stop_at: int | None = None, resumed: Path | None = None
) -> FineTuneResult:
    """Train for eight steps, of which three are an epoch: a resume falls into the second epoch."""
    torch.manual_seed(0)
    seen = [0]
    return fine_tune(
        fresh_model(SHAPE),
        tokenizer(),
        successor_pairs(40),
        SCHEDULE,
        lora=lora,
        device=Device(use_cpu=True, dtype=torch.float32),
        scratch=folder / "scratch",
        on_step=lambda step, _loss: seen.__setitem__(0, step),
        saving=CheckpointSettings(folder=folder / "work", every_steps=2, keep=2, fallback_folder=folder / "spare"),
        resumed=resumed,
        is_stopped=lambda: stop_at is not None and seen[0] + 1 >= stop_at,
    )


def weights(ended: FineTuneResult) -> dict[str, Any]:
    return {name: weight.clone() for name, weight in ended.model.state_dict().items()}


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(lora: LoraSettings | None, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", lora=lora)
    assert whole.step == 8 and whole.checkpoint == tmp_path / "whole/work/checkpoint-8"
    assert [path.name for path in sorted((tmp_path / "whole/work").glob("checkpoint-*"))] == [
        "checkpoint-6",
        "checkpoint-8",
    ]
    stopped = train(tmp_path / "parts", lora=lora, stop_at=5)
    assert stopped.step == 5 and stopped.checkpoint == tmp_path / "parts/work/checkpoint-5"
    assert not all(torch.equal(one, weights(stopped)[name]) for name, one in weights(whole).items())
    after_a_kill = tmp_path / "parts/work/checkpoint-4"  # as if checkpoint 5 had not been written
    for checkpoint in (stopped.checkpoint, after_a_kill):
        resumed = train(tmp_path / f"from-{checkpoint.name}", lora=lora, resumed=checkpoint)
        assert resumed.step == 8
        assert all(torch.equal(one, weights(resumed)[name]) for name, one in weights(whole).items())


def test_all_weights_are_loaded_from_a_checkpoint(tmp_path: Path) -> None:
    whole = train(tmp_path, lora=None)
    model = fresh_model(SHAPE)
    assert whole.checkpoint
    load_weights(model, whole.checkpoint)
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in weights(whole).items())
    shutil.rmtree(whole.checkpoint)
    with pytest.raises(LearnerError, match="cannot be loaded"):
        load_weights(model, whole.checkpoint)


def full_disk(monkeypatch: pytest.MonkeyPatch, *roots: Path) -> None:
    real = write_checkpoint

    def write(root: Path, *arguments: Any, **options: Any) -> Path:
        if root in roots:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(root, *arguments, **options)

    monkeypatch.setattr(supervised, "write_checkpoint", write)


def test_with_a_full_disk_training_continues_and_the_last_checkpoint_is_in_the_fallback_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "work").mkdir()
    full_disk(monkeypatch, tmp_path / "work")
    ended = train(tmp_path, lora=LORA)
    assert ended.step == 8 and ended.checkpoint == tmp_path / "spare/checkpoint-8"
    assert (ended.checkpoint / "optimizer.pt").is_file() and (ended.checkpoint / "adapter_model.safetensors").is_file()
    assert sum("No space left on device" in line and "training continues" in line for line in caplog.messages) == 3
    assert f"the checkpoint of step 8 is in {ended.checkpoint}" in caplog.messages[-1]


def test_without_a_writable_folder_the_error_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    full_disk(monkeypatch, tmp_path / "work", tmp_path / "spare")
    with pytest.raises(LearnerError, match="nor to") as caught:
        train(tmp_path, lora=LORA, stop_at=2)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "work") in str(caught.value) and str(tmp_path / "spare") in str(caught.value)
