"""Experiment trackers."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.errors import ConfigError
from cluster.ledger.run_folder import RunFolder
from cluster.run.trackers import tracking


def config(tracker: str | None = None) -> Config:
    return load_config(None, [f"tracker={tracker}"] if tracker else [], environment={})


def folder_at(path: Path) -> RunFolder:
    path.mkdir()
    return RunFolder(path)


def scalars(folder: RunFolder) -> list[tuple[str, int, float]]:
    """Tag, step and value of every scalar in the event files, in the order of the files."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the format that is read below)

    found = []
    for path in sorted(folder.tensorboard.glob("events.*")):
        data = path.read_bytes()
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
            at += 12 + length + 4
    return found


def test_metrics_go_to_tensorboard_files_in_the_run_folder_by_default(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "run")
    with tracking(config(), folder, step=0) as show:
        show({"step": 1, "reward": 0.25, "canary_gap_max": None, "loss": math.nan, "kl/mean": 2.0})
        show({"step": 2, "reward": 0.5})
    assert scalars(folder) == [("reward", 1, 0.25), ("kl/mean", 1, 2.0), ("reward", 2, 0.5)]


class Fake:
    """A tracker that records its calls."""

    def __init__(self) -> None:
        self.began: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, float], int]] = []
        self.finished = 0

    def init(self, **arguments: Any) -> "Fake":
        self.began.append(arguments)
        return self

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        self.finished += 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_has_the_same_key_in_its_tracker(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = Fake()
    module = ModuleType(name)
    module.init = fake.init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    folder, other = folder_at(tmp_path / "a"), folder_at(tmp_path / "b")
    for run_folder in (folder, folder, other):
        with tracking(config(name), run_folder, step=0) as show:
            show({"step": 3, "reward": 0.5, "kl": None})
    key = "id" if name == "wandb" else "name"
    first, second, third = (arguments[key] for arguments in fake.began)
    assert first == second != third
    assert fake.began[0]["config"]["rollout.group_size"] == config().rollout.group_size
    assert fake.logged == [({"reward": 0.5}, 3)] * 3
    assert fake.finished == 3


def test_mlflow_resumes_the_run_with_the_tag_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: dict[str, str] = {}  # tag -> run id
    logged: list[tuple[str, dict[str, float], int]] = []
    active: list[str] = []

    @contextmanager
    def start_run(*, run_id: str | None, run_name: str, tags: dict[str, str]) -> Iterator[None]:
        active.append(run_id or f"id-{len(runs)}")
        runs.setdefault(tags["caravan"], active[-1])
        yield

    module = ModuleType("mlflow")
    module.__dict__.update(
        set_experiment=lambda name: None,
        search_runs=lambda *_, filter_string, **__: [
            SimpleNamespace(info=SimpleNamespace(run_id=run))
            for tag, run in runs.items()
            if f"'{tag}'" in filter_string
        ],
        start_run=start_run,
        log_dict=lambda *_: None,
        log_metrics=lambda values, step, synchronous: logged.append((active[-1], values, step)),
    )
    monkeypatch.setitem(sys.modules, "mlflow", module)
    folder = folder_at(tmp_path / "a")
    for step in (1, 2):
        with tracking(config("mlflow"), folder, step=step - 1) as show:
            show({"step": step, "reward": 0.5})
    assert logged == [("id-0", {"reward": 0.5}, 1), ("id-0", {"reward": 0.5}, 2)]


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_named_before_anything_starts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with (
        pytest.raises(ConfigError, match=f"pip install {name}"),
        tracking(config(name), folder_at(tmp_path / "a"), step=0),
    ):
        pass


def test_the_tracker_none_writes_no_file(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "a")
    with tracking(config("none"), folder, step=0) as show:
        show({"step": 1, "reward": 0.5})
    assert list(folder.path.iterdir()) == []


def test_a_tracker_that_does_not_start_is_refused_in_one_line_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise KeyError("no such entity\nand more")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    with (
        pytest.raises(
            ConfigError, match=r"run\.tracker=wandb does not start: KeyError: .*take run\.tracker=tensorboard$"
        ),
        tracking(config("wandb"), folder_at(tmp_path / "run"), step=0),
    ):
        pass
