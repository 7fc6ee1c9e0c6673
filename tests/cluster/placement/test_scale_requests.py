"""``caravan scale``: a request in the run's folder, and the run's answer."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.cli.main import main
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import ConfigError
from cluster.ledger.run_folder import RunFolder, is_placement
from cluster.placement.scale_requests import answering_scale_requests, parse_numbers
from cluster.types import Completion, Grade, Problem, Usage
from rollout.fake import FakeSamplerPool


class Graders:
    """Records how it was scaled; refuses more than 100 graders."""

    def __init__(self) -> None:
        self.requested: list[tuple[int | None, int | None, int | None]] = []

    async def scale(
        self, number: int | None = None, *, min_graders: int | None = None, max_graders: int | None = None
    ) -> str:
        if number is not None and number > 100:
            raise ConfigError("that contradicts something")
        self.requested.append((number, min_graders, max_graders))
        return f"scaling 4 -> {number} graders"

    async def grade(self, problem: Problem, completion: Completion) -> Grade:
        raise NotImplementedError

    def usage(self) -> Usage:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


class Samplers(FakeSamplerPool):
    """Records how it was scaled."""

    def __init__(self) -> None:
        super().__init__(lambda *_: "")
        self.requested: list[tuple[int | None, int | None, int | None]] = []

    async def scale(
        self, number: int | None = None, *, min_samplers: int | None = None, max_samplers: int | None = None
    ) -> str:
        self.requested.append((number, min_samplers, max_samplers))
        return f"scaling 1 -> {number} samplers"


@contextlib.asynccontextmanager
async def running(
    path: Path, graders: Graders, *, samplers: Samplers | None = None, answering: bool = True
) -> AsyncIterator[RunFolder]:
    with RunFolder(path).opened(load_config(None, (), environment={})) as folder:
        if not answering:
            yield folder
            return
        async with answering_scale_requests(folder, samplers or Samplers(), graders, View()):
            yield folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.placement.scale_requests.POLL_SECONDS", 0.01)


def test_a_running_run_is_scaled_and_the_command_prints_its_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graders = Graders()

    async def scenario() -> None:
        async with running(tmp_path / "run", graders) as folder:
            requests = (["graders=64"], ["min_graders=4", "max_graders=9"], ["graders=5", "max_graders=9"])
            for request in requests:
                assert await asyncio.to_thread(main, ["scale", str(tmp_path / "run"), *request]) == 0
            assert list(folder.scaling.iterdir()) == []

    asyncio.run(scenario())
    assert graders.requested == [(64, None, None), (None, 4, 9), (5, None, 9)]
    assert capsys.readouterr().out.splitlines()[0] == "scaling 4 -> 64 graders"


def test_one_command_scales_samplers_and_graders_even_if_one_pool_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graders, samplers = Graders(), Samplers()

    async def scenario() -> None:
        async with running(tmp_path / "run", graders, samplers=samplers):
            for request, code in (
                (["samplers=2"], 0),
                (["max_samplers=8", "graders=7"], 0),
                (["samplers=3", "graders=101"], 2),
            ):
                assert await asyncio.to_thread(main, ["scale", str(tmp_path / "run"), *request]) == code

    asyncio.run(scenario())
    assert samplers.requested == [(2, None, None), (None, None, 8), (3, None, None)]
    assert graders.requested == [(7, None, None)]
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "scaling 1 -> 3 samplers"
    assert printed.err == "caravan: that contradicts something\n"


def test_a_request_that_the_run_refuses_exits_like_a_wrong_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graders = Graders()

    async def scenario() -> None:
        async with running(tmp_path / "run", graders):
            assert await asyncio.to_thread(main, ["scale", str(tmp_path / "run"), "graders=101"]) == 2

    asyncio.run(scenario())
    assert capsys.readouterr().err == "caravan: that contradicts something\n"
    assert graders.requested == []


@pytest.mark.parametrize(
    "wrong",
    [
        ["graders=0"],
        ["graders=4097"],
        ["graders=-3"],
        ["graders=many"],
        ["graders="],
        ["graders"],
        ["samplers=1025"],
        ["samplers=0"],
        ["learners=3"],
        ["num_graders=3"],
        ["num_samplers=3"],
        ["graders=1.5"],
    ],
)
def test_an_invalid_number_of_samplers_or_graders_is_refused_by_name(wrong: list[str]) -> None:
    maximum = 1024 if "samplers" in wrong[0] else 4096
    with pytest.raises(ConfigError, match=rf"^'{wrong[0]}' is not KEY=N with one of samplers, .* from 1 to {maximum}$"):
        parse_numbers(wrong)


def test_a_key_that_is_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="graders is given twice"):
        parse_numbers(["graders=3", "graders=4"])


def test_a_run_that_is_not_running_is_not_scaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["scale", str(run), "graders=3"]) == 1
    assert f"{run} is not a run directory" in capsys.readouterr().err

    async def ended() -> None:
        async with running(run, Graders()):
            pass

    asyncio.run(ended())
    assert main(["scale", str(run), "graders=3"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"caravan: {run} is not running") and "--resume" in printed and printed.count("\n") == 1


def test_a_request_without_an_answer_fails_and_is_withdrawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.placement.scale_requests.ANSWER_SECONDS", 0.2)

    async def scenario() -> None:
        async with running(tmp_path / "run", Graders(), answering=False) as folder:
            assert await asyncio.to_thread(main, ["scale", str(tmp_path / "run"), "graders=3"]) == 1
            assert list(folder.scaling.iterdir()) == []

    asyncio.run(scenario())
    assert "has not answered within 0.2 s" in capsys.readouterr().err


UNREADABLE = (
    b"",
    b"[1]",
    b'{"graders": "many"}',
    b'{"graders": true}',
    b'{"workers": 3}',
    b"[" * 100_000,
    b"\xff",
)


def test_requests_from_before_the_start_and_unreadable_requests_are_ignored(tmp_path: Path) -> None:
    graders = Graders()

    async def scenario() -> None:
        async with running(tmp_path / "run", graders, answering=False) as folder:
            folder.scaling.mkdir()
            (folder.scaling / "0-0.request").write_text('{"graders": 7}')
            async with answering_scale_requests(folder, Samplers(), graders, View()):
                (folder.scaling / "0-1.request").mkdir()  # not a request
                for number, content in enumerate(UNREADABLE, start=1):
                    (folder.scaling / f"{number}.request").write_bytes(content)
                    answer = folder.scaling / f"{number}.answer"
                    while not answer.exists():  # noqa: ASYNC110 - nothing signals it
                        await asyncio.sleep(0.01)
                    assert "refused" in json.loads(answer.read_text())

    asyncio.run(scenario())
    assert graders.requested == []


def test_a_run_may_resume_with_other_numbers_of_samplers_and_graders() -> None:
    bounds = ("num", "min", "max")
    assert all(
        is_placement(f"grader.{bound}_graders") and is_placement(f"rollout.{bound}_samplers") for bound in bounds
    )
