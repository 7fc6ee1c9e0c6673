"""Probe prompts of a run, and the gaps under its base model, which a resume reuses."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import RunFolderError
from cluster.ledger.run_folder import RunFolder
from cluster.run.base_gaps import NUM_PROBES, PROBE_TOKENS, BaseGaps, choose_probes, set_tolerance
from cluster.types import ProbeGap, ProbePrompt, Prompt
from learner.fake import FakeLearner
from rollout.fake import FakeSamplerPool


def prompts(*lengths: int) -> list[Prompt]:
    """Prompts that begin alike, as with an instruction, and end differently."""
    return [
        Prompt(problem_id=str(number), text="", token_ids=(*range(length - 1), 1000 + number))
        for number, length in enumerate(lengths)
    ]


def test_probe_prompts_are_the_first_token_and_the_end_of_prompts_from_the_whole_dataset() -> None:
    probes = choose_probes(prompts(*[100 + number % 7 for number in range(160)]))
    assert len(set(probes)) == len(probes) == NUM_PROBES
    assert {len(ids) for ids in probes} == {PROBE_TOKENS}
    assert {ids[0] for ids in probes} == {0}
    assert [ids[-1] for ids in probes] == [1000 + 10 * number for number in range(NUM_PROBES)]


def test_short_prompts_are_excluded_if_there_are_enough_others() -> None:
    lengths = [5 if number % 2 else 40 for number in range(2 * NUM_PROBES)]
    assert {len(ids) for ids in choose_probes(prompts(*lengths))} == {40}


def test_a_small_dataset_has_few_and_short_probe_prompts() -> None:
    assert choose_probes(prompts(9, 12, 10)) == (
        (*range(8), 1000),
        (0, *range(4, 11), 1001),
        (0, *range(2, 9), 1002),
    )


def test_equal_probe_prompts_are_used_once() -> None:
    assert len(choose_probes([prompts(20)[0]] * 5)) == 1


class Samplers(FakeSamplerPool):
    """Differ from the learner by 0.02 nats per token."""

    def __init__(self) -> None:
        super().__init__(lambda *_: "")
        self.num_measured = 0
        self.tolerance = 0.0

    async def base_gaps(self, probes: Sequence[ProbePrompt]) -> tuple[ProbeGap, ...]:
        self.num_measured += 1
        return tuple(replace(gap, mean=0.02) for gap in await super().base_gaps(probes))

    def set_tolerance(self, nats: float) -> None:
        self.tolerance = nats

    async def scale(self, number: int | None = None, **_: int | None) -> str:
        raise NotImplementedError


class Learner(FakeLearner):
    async def base_probes(self) -> tuple[ProbePrompt, ...]:
        return tuple(ProbePrompt(token_ids=(5, 6, number), logprobs=(-1.0, -2.0)) for number in range(4))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def config_with(*settings: str) -> Config:
    return load_config(None, ["rollout.dtype=bfloat16", "learner.dtype=bfloat16", *settings], environment={})


def start(folder: RunFolder, saved: BaseGaps | None, *settings: str) -> Samplers:
    samplers: Any = Samplers()
    learner: Any = Learner()
    asyncio.run(set_tolerance(samplers, learner, saved, folder, config_with(*settings), View()))
    assert isinstance(samplers, Samplers)
    return samplers


def test_the_tolerance_is_measured_once_and_a_resume_uses_the_same(
    folder: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    first = start(folder, BaseGaps.read(folder))
    assert first.num_measured == 1
    assert first.tolerance == pytest.approx(0.04)
    assert "agree about the base model: 2.0e-02 nats per token apart on 4 probe prompts" in capsys.readouterr().err
    saved = BaseGaps.read(folder)
    assert saved is not None
    assert [ids[-1] for ids in saved.token_ids] == list(range(4))
    resumed = start(folder, saved)
    assert (resumed.num_measured, resumed.tolerance) == (0, first.tolerance)
    assert "policies are verified up to 4.0e-02 nats per token, as at the start" in capsys.readouterr().err


def test_a_run_of_an_older_version_measures_at_its_resume(folder: RunFolder) -> None:
    assert BaseGaps.read(folder) is None
    assert start(folder, None).num_measured == 1
    assert BaseGaps.read(folder) is not None


def test_a_run_that_resumes_in_another_precision_measures_again(folder: RunFolder) -> None:
    start(folder, None)
    again = start(folder, BaseGaps.read(folder), "learner.dtype=float32")
    assert again.num_measured == 1
    saved = BaseGaps.read(folder)
    assert saved is not None and saved.learner_dtype == "float32"


def test_a_configured_tolerance_takes_precedence_at_the_start_and_at_a_resume(folder: RunFolder) -> None:
    assert start(folder, None, "weight_sync_tolerance=0.3").tolerance == 0.3
    assert start(folder, BaseGaps.read(folder), "weight_sync_tolerance=0.1").tolerance == 0.1
    assert start(folder, BaseGaps.read(folder)).tolerance == pytest.approx(0.04)


def test_a_broken_file_is_named(folder: RunFolder) -> None:
    folder.base_gaps.write_text('{"gaps": 3}')
    with pytest.raises(RunFolderError, match=r"base_gaps.json cannot be read .*: delete it"):
        BaseGaps.read(folder)
